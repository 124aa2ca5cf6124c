"""Patches of strangers on the host's model: applied whole, or refused whole; named as they are in lists and reports."""

import json
import os

import pytest
import torch
from forget_me_not.nodes.concepts.encode_prompt import EncodePrompt
from forget_me_not.nodes.host import add_hooks, apply_patch, files, layer_shapes, patch_hooks, patches, saving
from forget_me_not.nodes.host.saving import check_file_name, host, save_embedding_file
from forget_me_not.nodes.patches.apply_patch import ApplyForgetPatch
from forget_me_not.nodes.patches.install_embedding import InstallPatchEmbedding
from forget_me_not.nodes.patches.patch_info import ForgetPatchInfo
from forget_me_not.nodes.ui.patch_source import PatchFileNode
from forget_me_not.nodes.ui.reports import forgotten
from forget_me_not.nodes.web.patch_list import connected, list_patches
from inprocess.sampling import sample
from model_state import assert_untouched, state
from safetensors.torch import save_file

from fmn_core.concepts.concept import packed_vectors
from fmn_core.errors import ForgetError
from fmn_core.patch.patch import Factors, ForgetPatch

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

FIRST = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
OTHER_NAMES = tuple(f"lora_unet_{block}_block" for block in ("input", "middle", "output"))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder of this test's own, of which the host lists every file."""
    (tmp_path / "forget_me_not").mkdir()
    monkeypatch.setattr(files.folder_paths, "get_full_path", lambda kind, name: str(tmp_path / name))
    names = lambda kind: [f"forget_me_not/{p.name}" for p in (tmp_path / "forget_me_not").iterdir()]  # noqa: E731
    monkeypatch.setattr(files.folder_paths, "get_filename_list", names)
    monkeypatch.setattr(host, "embedding_root", lambda: tmp_path / "embeddings")
    return tmp_path / "forget_me_not"


@pytest.fixture(scope="module")
def shapes(miniature):
    """The shape of every layer by its diffusers name; the host knows each by a second name too."""
    return {n: s for n, s in layer_shapes(miniature[0]).items() if not n.startswith(OTHER_NAMES)}


@pytest.fixture
def patch_of():
    def made(changes, concepts=(), base=None, alpha=2.0):
        g = torch.Generator().manual_seed(0)
        factors = {}
        for name, (out, inner, *kernel) in changes.items():
            up = torch.randn(out, 2, *(1 for _ in kernel), generator=g) * 0.1
            factors[name] = Factors(up, torch.randn(2, inner, *kernel, generator=g) * 0.1, alpha)
        return ForgetPatch(factors, list(concepts), base or {}, {"method": "closed form"})

    return made


def values(shapes):
    return {n: s for n, s in shapes.items() if n.endswith("attn2_to_v")}


def misfits(shapes):
    """Patches that do not fit the whole model, by what is wrong with them."""
    good = values(shapes)
    first = {n: (*s[:2], 3, 3) if n == FIRST else s for n, s in good.items()}
    return {
        "kernels on every layer": {n: (*s[:2], 3, 3) for n, s in good.items()},
        "a kernel on one layer": first,
        "one layer of another model": good
        | {"lora_unet_up_blocks_9_attentions_0_transformer_blocks_0_attn2_to_v": (8, 8)},
        "one layer of another width": good | {FIRST: (good[FIRST][0], good[FIRST][1] * 2)},
        "a layer without weights": good | {"lora_unet_down_blocks_0_attentions_0": (8, 8)},
        "a flattened kernel": {n: (s[0], s[1] * 9) for n, s in shapes.items() if s[2:] == (3, 3)},
    }


@pytest.mark.parametrize("number", range(6))
def test_a_patch_that_does_not_fit_in_every_layer_is_refused(miniature, shapes, patch_of, number):
    case, changes = list(misfits(shapes).items())[number]
    model, clip, _ = miniature
    before = state(model, clip)
    with pytest.raises(ForgetError, match=rf"of {len(changes)} layers") as caught:
        apply_patch(model, patch_of(changes), 1.0)
    assert "Choose a patch made for this family" in str(caught.value), case
    assert_untouched(model, clip, before)


def test_kernels_and_matrices_of_the_right_shape_change_every_layer(miniature, shapes, patch_of):
    chosen = values(shapes) | dict(list({n: s for n, s in shapes.items() if len(s) == 4}.items())[:6])
    clone, matched = apply_patch(miniature[0], patch_of(chosen), 1.0)
    assert matched == len(chosen) == len(clone.patches)
    keys = patches.comfy.lora.model_lora_keys_unet(clone.model, {})
    for name in chosen:
        weight = clone.model.state_dict()[keys[name]]
        moved = patches.comfy.lora.calculate_weight(clone.patches[keys[name]], weight.clone().float(), name)
        assert not torch.equal(moved, weight.float())


def test_two_names_of_one_weight_are_refused(miniature, patch_of):
    """The host would let the second take the first's place: half of what the patch says."""
    found = {n: s for n, s in layer_shapes(miniature[0]).items() if n.endswith("attn2_to_v")}
    assert any(n.startswith(OTHER_NAMES) for n in found) and FIRST in found
    with pytest.raises(ForgetError, match=f"Expected {len(found)} layers .* but {len(found) // 2} did"):
        apply_patch(miniature[0], patch_of(found), 1.0)


def test_one_by_one_kernels_are_matrices(miniature, shapes, patch_of):
    """Checkpoints store some projections as 1 x 1 kernels, and other tools train matrices for them, or the reverse."""
    name, shape = next((n, s) for n, s in shapes.items() if len(s) == 2 and n == FIRST)
    assert apply_patch(miniature[0], patch_of({name: (*shape, 1, 1)}), 1.0)[1] == 1


@pytest.mark.parametrize("number", range(6))
def test_hooks_are_as_strict_as_the_model(miniature, shapes, patch_of, number):
    changes = list(misfits(shapes).values())[number]
    model, clip, _ = miniature
    cond = EncodePrompt.execute("a zebra", clip).args[0]
    hooked = add_hooks(cond[0], patch_hooks(patch_of(changes), 1.0, 0.0, 1.0))
    with pytest.raises(ForgetError, match=rf"of {len(changes)} layers"):
        sample(model, [hooked], cond)
    good = add_hooks(cond[0], patch_hooks(patch_of(values(shapes)), 1.0, 0.0, 1.0))
    assert not torch.equal(sample(model, [good], cond), sample(model, cond, cond))


def test_a_change_that_drowns_its_weights_is_warned_of(miniature, shapes, patch_of):
    chosen = values(shapes)
    apply = ApplyForgetPatch.execute
    quiet = apply(miniature[0], "", 1.0, patch_of(chosen, alpha=0.02)).args[1]
    loud = apply(miniature[0], "", 1.0, patch_of(chosen, alpha=20_000.0)).args[1]
    nothing = apply(miniature[0], "", 1.0, patch_of(chosen, alpha=2e-6)).args[1]
    assert "warning" not in quiet
    assert "times as large as the weights" in loud and "hardly changes" in nothing


def hostile_metadata(patch_of, shapes):
    patch = patch_of(values(shapes), [{"phrases": ["zebra"]}], {"architecture": "unet-1x1"})
    good = patch.metadata()
    bad = {
        "a surrogate": {"fmn.base": json.dumps({"architecture": "\ud800"})},
        "NaN": {"fmn.figures": '{"held_out_missed": NaN, "held_out_drift": 1e999}'},
        "no contexts": {"fmn.concepts": '[{"phrases": [], "corrects": "apple"}]'},
        "bad norms": {"fmn.base": '{"architecture": "x", "shapes": [[1, 2]], "norms": ["a"]}'},
        "no object": {
            "fmn.base": "[]",
            "fmn.settings": "3",
            "fmn.figures": "null",
            "fmn.about": '"x"',
            "fmn.parts": "{}",
        },
        "line breaks": {"fmn.concepts": '[{"phrases": ["zebra\\nmatched 99 of 99 layers"]}]', "fmn.tool": "x\nseed: 7"},
        "method": {"fmn.settings": '{"method": {"x": 1}, "target": [], "seed": "1\\nbase: the same"}'},
        "notes": {"fmn.about": '{"notes": "good\\nbase: the same", "title": "\\u001b[2J\\u202e"}'},
    }
    return patch, {case: good | said for case, said in bad.items()}


def test_every_entry_of_the_list_fails_alone(folder, shapes, patch_of, monkeypatch):
    patch, bad = hostile_metadata(patch_of, shapes)
    for number, said in enumerate(bad.values()):
        save_file(patch.state_dict(), folder / f"{number}.safetensors", said)
    save_file(patch.state_dict(), folder / "good.safetensors", patch.metadata())
    (folder / "dangling.safetensors").symlink_to(folder / "nothing")
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    monkeypatch.setattr(connected, "base", lambda *node: {"shapes": [[1, 2]], "norms": [1.0], "architecture": "x"})
    found = {e["name"].rpartition("/")[2]: e for e in list_patches("workflow", "node")}
    text = json.dumps(list(found.values()), allow_nan=False)
    assert len(found) == len(bad) + 3 and found["good.safetensors"]["forgets"] == "zebra"
    assert "error" in found["dangling.safetensors"] and "error" in found["loop.safetensors"]
    assert "ud800" not in text and not any(c in "".join(map(str, found.values())) for c in "\n\x1b\u202e")


def test_reports_have_no_lines_of_strangers(folder, miniature, shapes, patch_of):
    patch, bad = hostile_metadata(patch_of, shapes)
    for case, said in bad.items():
        save_file(patch.state_dict(), folder / "bad.safetensors", said)
        name = "forget_me_not/bad.safetensors"
        report = ApplyForgetPatch.execute(miniature[0], name, 1.0).args[1]
        text, raw, _ = ForgetPatchInfo.execute(name, model=miniature[0]).args
        json.loads(raw, parse_constant=pytest.fail)
        (report + text).encode()
        assert [line.partition(" ")[0] for line in report.splitlines()][:2] == ["forgets:", "matched"], case
        assert all(text.count(f"\n{line}:") <= 1 for line in ("base", "seed", "layers", "made with")), case
        assert not any(c in report + text for c in "\x1b\u202e"), case
    for text in (forgotten(patch_of(values(shapes), [{"phrases": ["a\nmatched 9 of 9"]}])),):
        assert text == "a matched 9 of 9"


def test_a_file_replaced_within_the_same_tick_is_seen(folder, shapes, patch_of):
    def write(phrase):
        patch = patch_of(values(shapes), [{"phrases": [phrase]}])
        save_file(patch.state_dict(), folder / "new.safetensors", patch.metadata())
        os.utime(folder / "new.safetensors", ns=(10**18, 10**18))
        os.replace(folder / "new.safetensors", folder / "a.safetensors")
        [entry] = list_patches("", "")
        name = "forget_me_not/a.safetensors"
        return entry["forgets"], PatchFileNode.fingerprint_inputs(patch_file=name)

    first, second = write("zebra"), write("llama")
    assert (first[0], second[0]) == ("zebra", "llama") and first[1] != second[1]


@pytest.mark.parametrize(
    "name",
    ["con", "CON.txt", "nul.tar.gz", "COM1", "com¹", "LPT9.x", "conin$", "CONOUT$", "a\u202egpj", "a\u200eb", "a\u2066b", "a\x7fb", "a\ud800", "a\u2028b", "猫" * 80, "aux .x"],
)  # fmt: skip
def test_names_that_a_system_reserves_or_that_show_as_another(name):
    with pytest.raises(ForgetError, match="file name"):
        check_file_name(name)


@pytest.mark.parametrize("name", ["console", "forget_zebra", "nullable", "猫", "a.b-c_d", "comma1", "x con", "Zoë"])
def test_other_names_are_taken(name):
    assert check_file_name(f" {name}.safetensors ") == name


def test_embeddings_of_a_patch_are_installed_all_or_none(folder, shapes, patch_of, monkeypatch):
    packed = packed_vectors
    concepts = [
        {"phrases": [n], "embedding": {"l": packed(torch.full((2, 8), v))}} for n, v in (("a", 1.0), ("b", 2.0))
    ]
    run = InstallPatchEmbedding.execute
    root = folder.parent / "embeddings"
    bad = patch_of(
        values(shapes), [*concepts, {"phrases": ["c"], "embedding": {"l": packed(torch.full((2, 8), torch.inf))}}]
    )
    with pytest.raises(ForgetError):
        run("", "from_patch", bad)
    assert not root.exists() or list(root.iterdir()) == []
    good, save, calls = patch_of(values(shapes), concepts), save_embedding_file, []

    def full(embedding, stem):
        calls.append(stem)
        if len(calls) == 2:
            raise ForgetError("Expected to write, but the disk refused.")
        return save(embedding, stem)

    with monkeypatch.context() as patched:
        patched.setattr(saving, "save_embedding_file", full)
        with pytest.raises(ForgetError, match="the disk refused"):
            run("", "from_patch", good)
    assert list(root.iterdir()) == []
    assert run("", "from_patch", good).args[2] == "installed embedding:from_patch, embedding:from_patch_00002_"
    assert len(list(root.iterdir())) == 2
    with monkeypatch.context() as patched:
        calls.clear()
        patched.setattr(saving, "save_embedding_file", full)
        with pytest.raises(ForgetError, match="the disk refused"):
            run("", "from_patch", good)
    assert len(list(root.iterdir())) == 2
