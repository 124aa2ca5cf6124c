import json
import pickle
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from toy_model import ToyModel

from fmn_core.errors import ForgetError
from fmn_core.patch.file import load_patch, save_patch
from fmn_core.patch.patch import Factors, ForgetPatch, base_difference, fingerprint

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"


def make_patch(**changes):
    g = torch.Generator().manual_seed(0)
    factors = {NAME: Factors(torch.randn(6, 2, generator=g), torch.randn(2, 5, generator=g), 2.0)}
    base = {"architecture": "unet-2x5", "shapes": [[6, 5]], "norms": [1.5]}
    return ForgetPatch(
        **{
            "factors": factors,
            "concepts": [{"phrases": ["zebra"], "kind": "object"}],
            "base": base,
            "settings": {"rank": 2},
            **changes,
        }
    )


def tensors_of(**changes):
    tensors = make_patch().state_dict() | changes
    return {k: v for k, v in tensors.items() if v is not None}


def test_round_trip(tmp_path):
    patch, path = make_patch(figures={"rank": 2}), tmp_path / "a.safetensors"
    size = save_patch(patch, path)
    loaded = load_patch(path)
    assert size == path.stat().st_size
    assert loaded.concepts == patch.concepts and loaded.base == patch.base and loaded.figures == {"rank": 2}
    torch.testing.assert_close(loaded.factors[NAME].delta(), patch.factors[NAME].delta(), rtol=5e-3, atol=5e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_delta_scales_with_alpha_over_rank():
    f = Factors(torch.ones(3, 2), torch.ones(2, 4), 1.0)
    assert torch.equal(f.delta(), torch.ones(3, 4))


def test_the_same_patch_is_the_same_bytes_whatever_time_it_took(tmp_path):
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        save_patch(make_patch(figures={"seconds": seconds}), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_header_is_sorted_and_readable(tmp_path):
    save_patch(make_patch(), tmp_path / "a")
    with safe_open(tmp_path / "a", framework="pt") as f:
        metadata = f.metadata()
    raw = (tmp_path / "a").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(header["__metadata__"]) == sorted(metadata)
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_network_dim"] == "2"
    assert metadata["modelspec.title"] == "Forget zebra" and json.loads(metadata["fmn.concepts"])[0]["phrases"] == [
        "zebra"
    ]
    assert all(isinstance(v, str) for v in metadata.values())


def test_nan_is_refused_before_anything_is_written(tmp_path):
    patch = make_patch()
    patch.factors[NAME].up[0, 0] = float("nan")
    with pytest.raises(ForgetError, match="NaN or infinity"):
        save_patch(patch, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_overflow_in_half_precision_is_refused(tmp_path):
    patch = make_patch()
    patch.factors[NAME].up[0, 0] = 1e6
    with pytest.raises(ForgetError, match="infinity"):
        save_patch(patch, tmp_path / "a.safetensors")


def test_a_failed_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_patch(make_patch(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{NAME}.lora_up.weight": torch.full((6, 2), float("nan"))}, "NaN or infinity"),
        ({f"{NAME}.lora_up.weight": torch.zeros(6, 3)}, r"got \[6, 3\] and \[2, 5\]"),
        ({f"{NAME}.lora_down.weight": torch.zeros(2, 5, dtype=torch.int32)}, "floating-point"),
        ({f"{NAME}.lora_down.weight": None}, "one is missing"),
        ({f"{NAME}.alpha": torch.zeros(2)}, "one number as alpha"),
        ({"model.diffusion_model.weight": torch.zeros(2)}, "not a forget patch"),
        ({f"{NAME}.lora_up.weight": None, f"{NAME}.lora_down.weight": None, f"{NAME}.alpha": None}, "empty file"),
    ],
)
def test_bad_tensors_are_refused(tmp_path, changes, message):
    save_file(tensors_of(**changes), tmp_path / "a.safetensors")
    with pytest.raises(ForgetError, match=message):
        load_patch(tmp_path / "a.safetensors")


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_patch(make_patch(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ForgetError, match="corrupt, cut short"):
        load_patch(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 64, b"{}" * 40])
def test_other_content_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ForgetError, match="corrupt, cut short or of another format"):
        load_patch(tmp_path / "a.safetensors")


def test_pickles_are_refused_unopened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with zipfile.ZipFile(tmp_path / "b.safetensors", "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    for name in "ab":
        with pytest.raises(ForgetError, match="pickle"):
            load_patch(tmp_path / f"{name}.safetensors")


def test_a_header_length_that_looks_like_a_pickle_is_not_one(tmp_path):
    """The first eight bytes are the header's length: 0x280 + 8k begins with the bytes of a protocol 2 pickle."""
    path = tmp_path / "a.safetensors"
    seen = set()
    for length in range(1, 400):
        save_patch(make_patch(settings={"pad": "x" * length}), path)
        seen.add(path.read_bytes()[:1])
        load_patch(path)
    assert b"\x80" in seen


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ForgetError, match="none at nothing.safetensors"):
        load_patch(tmp_path / "nothing.safetensors")


def test_lora_of_other_tools_without_alpha_and_metadata_loads(tmp_path):
    save_file(tensors_of(**{f"{NAME}.alpha": None}), tmp_path / "a.safetensors")
    loaded = load_patch(tmp_path / "a.safetensors")
    assert loaded.factors[NAME].alpha == 2.0 and loaded.concepts == []


def test_fingerprint_tells_models_apart_but_not_precisions():
    a, b = ToyModel(seed=0), ToyModel(seed=1)
    half = ToyModel(seed=0)
    for layer in half.cross_attention():
        layer.projections["to_k"].weight.data = layer.projections["to_k"].weight.data.half().float()
    assert base_difference(fingerprint(a), fingerprint(half)) == ""
    assert "attention keys differ" in base_difference(fingerprint(a), fingerprint(b))
    assert base_difference({}, fingerprint(a)) == ""
    assert "another architecture" in base_difference(fingerprint(a), {})


@pytest.mark.parametrize(
    ("architecture", "wanted"),
    [
        ("stable-diffusion-v1", {"ss_base_model_version": "stable-diffusion-v1"}),
        ("stable-diffusion-v2-512", {"ss_base_model_version": "sd_v2", "ss_v2": "True"}),
        ("stable-diffusion-xl-v1-base", {"ss_base_model_version": "sdxl_base_v1-0"}),
        (["no text"], {"ss_base_model_version": "['no text']"}),
    ],
)
def test_other_programs_read_for_which_models_a_patch_is(architecture, wanted):
    """As A1111 and Forge tell: a base version that begins with sdxl_, else ss_v2 "True", else SD 1.x."""
    metadata = ForgetPatch({}, [{"phrases": ["zebra"]}], {"architecture": architecture}, {}).metadata()
    assert {k: v for k, v in metadata.items() if k in ("ss_base_model_version", "ss_v2")} == wanted


def test_a_larger_rank_is_the_same_change():
    for factors in (
        Factors(torch.randn(5, 2), torch.randn(2, 4), 1.5),
        Factors(torch.randn(5, 2, 1, 1), torch.randn(2, 4, 3, 3), 2.0),
    ):
        larger = factors.of_rank(6)
        assert larger.rank == 6 and larger.shape == factors.shape
        torch.testing.assert_close(larger.delta(), factors.delta())
