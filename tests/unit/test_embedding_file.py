import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fmn_core.concepts.embedding_file import Embedding, load_embedding, save_embedding
from fmn_core.errors import ForgetError


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WORDS = {
    "sd1": {"l": vectors(3, 768)},
    "sd2": {"h": vectors(2, 1024)},
    "sdxl": {"l": vectors(2, 768), "g": vectors(2, 1280, seed=1)},
    "miniature": {"l": vectors(1, 96)},
}
KEYS = {"sd1": {"emb_params"}, "sd2": {"emb_params"}, "sdxl": {"clip_l", "clip_g"}, "miniature": {"emb_params"}}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("family", WORDS)
def test_round_trip(tmp_path, family):
    path = tmp_path / "zebra.safetensors"
    base = {"architecture": "stable-diffusion-v1", "shapes": [[320, 768]], "norms": [1.5]}
    saved = Embedding(WORDS[family], "zebra", "identity", 40, base)
    assert save_embedding(saved, path) == path.stat().st_size
    assert set(load_file(path)) == KEYS[family]
    loaded = load_embedding(path)
    assert same(loaded.vectors, WORDS[family])
    assert (loaded.phrase, loaded.kind, loaded.steps, loaded.base) == ("zebra", "identity", 40, base)
    assert same(load_embedding(path, {k: v.shape[1] for k, v in WORDS[family].items()}).vectors, WORDS[family])
    assert [p.name for p in tmp_path.iterdir()] == ["zebra.safetensors"]


def test_the_same_embedding_is_the_same_bytes_and_replaces_the_old_file(tmp_path):
    for name in "ab":
        save_embedding(Embedding(WORDS["sd1"], "dog"), tmp_path / f"{name}.safetensors")
        save_embedding(Embedding(WORDS["sdxl"], "zebra", steps=3), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert same(load_embedding(tmp_path / "a.safetensors").vectors, WORDS["sdxl"])
    with safe_open(tmp_path / "a.safetensors", framework="pt") as f:
        assert f.metadata()["modelspec.architecture"] == "stable-diffusion/textual-inversion"


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_embedding(Embedding(WORDS["sd1"]), path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_embedding(Embedding(WORDS["sd2"]), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("tensors", "encoders"),
    [
        ({"clip_l": vectors(2, 768)}, {"l"}),
        ({"clip_h": vectors(2, 1024)}, {"h"}),
        ({"clip_g": vectors(2, 1280), "clip_l": vectors(2, 768)}, {"l", "g"}),
        ({"emb_params": vectors(2, 1024).half()}, {"h"}),
        ({"<cat-toy>": vectors(1, 768)}, {"l"}),
    ],
)
def test_files_of_other_tools(tmp_path, tensors, encoders):
    save_file(tensors, tmp_path / "a.safetensors")
    loaded = load_embedding(tmp_path / "a.safetensors")
    assert set(loaded.vectors) == encoders and (loaded.phrase, loaded.steps, loaded.base) == ("", 0, {})
    for encoder, v in loaded.vectors.items():
        original = tensors.get(f"clip_{encoder}", next(iter(tensors.values())))
        assert v.dtype == torch.float32 and torch.equal(v, original.float())


def test_metadata_that_is_not_ours_is_ignored(tmp_path):
    metadata = {"fmn.steps": "-3", "fmn.base": "[" * 5000}
    save_file({"clip_l": vectors(2, 768)}, tmp_path / "a.safetensors", metadata)
    loaded = load_embedding(tmp_path / "a.safetensors")
    assert loaded.steps == 0 and loaded.base == {}


def nan(*shape):
    return torch.full(shape, float("nan"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"emb_params": nan(2, 768)}, "NaN or infinity"),
        ({"clip_l": torch.full((2, 768), float("inf"))}, "NaN or infinity"),
        ({"emb_params": vectors(768)}, r"1 to 75 vectors.*got shape \[768\]"),
        ({"emb_params": torch.tensor(1.0)}, r"got shape \[\]"),
        ({"emb_params": vectors(1, 2, 768)}, r"got shape \[1, 2, 768\]"),
        ({"emb_params": vectors(0, 768)}, r"got shape \[0, 768\]"),
        ({"emb_params": vectors(2, 0)}, r"got shape \[2, 0\]"),
        ({"emb_params": vectors(76, 768)}, r"got shape \[76, 768\]"),
        ({"emb_params": torch.ones(2, 768, dtype=torch.int32)}, "floating-point vectors"),
        ({"clip_l": vectors(2, 1024)}, "width 768 for encoder l.*got 1024"),
        ({"clip_g": vectors(2, 768), "clip_l": vectors(2, 768)}, "width 1280 for encoder g.*got 768"),
        ({"clip_l": vectors(2, 768), "clip_g": vectors(3, 1280)}, "the same for each encoder"),
        ({"clip_l": vectors(2, 768), "clip_h": vectors(2, 1024)}, "got h, l"),
        ({"a": vectors(2, 768), "b": vectors(2, 768)}, r"got 2 tensors \(a, b\).*not a textual-inversion"),
        ({}, r"got 0 tensors \(none\)"),
    ],
)
def test_bad_tensors_are_refused(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ForgetError, match=message) as caught:
        load_embedding(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "widths"),
    [("sd1", {"l": 96}), ("sd1", {"h": 1024}), ("sd1", {"l": 768, "g": 1280}), ("sdxl", {"l": 768})],
)
def test_vectors_of_another_model_are_refused(tmp_path, family, widths):
    save_embedding(Embedding(WORDS[family]), tmp_path / "a.safetensors")
    with pytest.raises(ForgetError, match=r"a\.safetensors: Expected an embedding for the text encoders"):
        load_embedding(tmp_path / "a.safetensors", widths)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ({"l": nan(2, 768)}, "NaN or infinity"),
        ({"l": vectors(76, 768)}, r"got shape \[76, 768\]"),
        ({"l": vectors(768)}, r"got shape \[768\]"),
        ({"g": vectors(2, 768)}, "width 1280"),
        ({"l": vectors(2, 768), "g": vectors(1, 1280)}, "the same for each encoder"),
        ({"t5": vectors(2, 4096)}, "got t5"),
        ({}, "got none"),
    ],
)
def test_nothing_bad_is_written(tmp_path, word, message):
    with pytest.raises(ForgetError, match=message):
        save_embedding(Embedding(word), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.pt", "a", "my cat.safetensors", "a,b.safetensors", "(a:1.2).safetensors"])
def test_names_that_no_prompt_can_say_are_refused(tmp_path, name):
    with pytest.raises(ForgetError, match="embedding:NAME"):
        save_embedding(Embedding(WORDS["sd1"]), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_other_content_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_embedding(Embedding(WORDS["sd1"]), path)
    for content in (path.read_bytes()[:-20], path.read_bytes()[:40], b"", b"hello", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(ForgetError, match=r"a\.safetensors is corrupt, cut short or of another format"):
            load_embedding(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ForgetError, match=r"none at nothing\.safetensors"):
        load_embedding(tmp_path / "nothing.safetensors")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps(Bomb()))


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("write", [zipped, lambda path: path.write_bytes(pickle.dumps(Bomb(), protocol=2))])
def test_pickles_are_refused_unopened(tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(ForgetError, match=f"a pickle in {name}, which can run code. It was not opened"):
        load_embedding(tmp_path / name)


def test_a_header_length_that_looks_like_a_pickle_is_not_one(tmp_path):
    path, seen = tmp_path / "a.safetensors", set()
    for length in range(300):
        save_embedding(Embedding(WORDS["miniature"], "x" * length), path)
        seen.add(path.read_bytes()[:1])
        assert load_embedding(path).phrase == "x" * length
    assert b"\x80" in seen
