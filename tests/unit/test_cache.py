"""The cache: keys that tell different content apart, files that survive anything, and exact results."""

import contextlib
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from toy_model import ToyModel

from fmn_core.cache import PROBE_PROMPT, Cache, content_key, model_key, text_key
from fmn_core.errors import ForgetError

REPOSITORY = Path(__file__).resolve().parents[2]


def tensors(seed=0, length=250):
    return {"x": torch.randn(length, generator=torch.Generator().manual_seed(seed))}


def same_bits(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and content_key(a[k]) == content_key(b[k]) for k in a
    )


# --- keys ---


DIFFERENT = [
    (), ("",), ("", ""), ("abc",), (["a", "b"], "c"), (["a"], "b", "c"), ("a", ["b", "c"]),
    ([],), ([[]],), ([], []), ({},), (None,), (False,), (0,), (0.0,), (-0.0,), ("0",), (b"0",), (1,), (True,), (1.0,), (-1,),
    (10**30,), (float("nan"),), ({"a": 1},), ({"a": "1"},), ({"b": 1},), ({1: "a"},), ({"a": {"b": 1}},), ({"a": {}, "b": 1},), ("a", 1),
    (torch.zeros(2),), (torch.zeros(1, 2),), (torch.zeros(2, 1),), (torch.zeros(3),), (torch.zeros(2).half(),), (torch.zeros(2).bfloat16(),),
    (torch.zeros(2, dtype=torch.int32),), (-torch.zeros(2),), (torch.zeros(1), torch.zeros(1)), (torch.zeros(0),), (torch.zeros(0, 3),),
    (torch.tensor(0.0),), (torch.zeros(2).tolist(),), (torch.zeros(2, dtype=torch.bool),), ("\ud800",),
]  # fmt: skip


# What stands between two parts, if lengths were not written or meant nothing, inside of one.
SEPARATORS = ["", "str", "\0" * 16 + "str", "\0" * 7 + "\3" + "str", ",", "\0", "', '"]
DIFFERENT += [(f"a{s}b", "c") for s in SEPARATORS] + [("a", f"b{s}c") for s in SEPARATORS]


def test_different_content_has_different_keys():
    keys = [content_key(*parts) for parts in DIFFERENT]
    assert len(set(keys)) == len(keys)
    assert all(len(k) == 64 and int(k, 16) >= 0 for k in keys)


def test_random_nestings_differ_exactly_when_their_content_does():
    rng = random.Random(0)

    def value(depth):
        kind = rng.randrange(6 if depth else 3)
        if kind < 3:
            return (rng.choice(["", "a", "ab", "b"]), rng.randrange(3), rng.choice([None, 0.5]))[kind]
        if kind < 5:
            return [value(depth - 1) for _ in range(rng.randrange(3))]
        return {rng.choice("ab"): value(depth - 1) for _ in range(rng.randrange(3))}

    drawn = [value(3) for _ in range(3000)]
    # repr is unambiguous for these, but for the order of dicts
    seen = {}
    for part in drawn:
        seen.setdefault(content_key(part), set()).add(repr(ordered(part)))
    assert all(len(v) == 1 for v in seen.values())
    assert len(seen) == len({repr(ordered(p)) for p in drawn}) > 500


def ordered(part):
    if isinstance(part, list):
        return [ordered(p) for p in part]
    return {k: ordered(part[k]) for k in sorted(part)} if isinstance(part, dict) else part


def test_equal_content_has_one_key():
    x = torch.randn(4, 6)
    assert content_key(x.t()) == content_key(x.t().contiguous()) != content_key(x)
    assert content_key(x[:, 1]) == content_key(x[:, 1].clone())
    assert content_key(torch.nn.Parameter(x)) == content_key(x)
    assert content_key({"a": 1, "b": x}) == content_key({"b": x, "a": 1})
    assert content_key(("a", 1)) == content_key(["a", 1])


def test_keys_are_the_same_in_another_process():
    code = "from fmn_core.cache import content_key; print(content_key('a', {'b': [1, 2.5], 'a': None}))"
    out = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == content_key("a", {"b": [1, 2.5], "a": None})


def test_other_types_have_no_key():
    with pytest.raises(ForgetError, match="got object"):
        content_key("a", [object()])


# --- storing ---


def test_what_is_got_is_what_was_put_bit_for_bit(tmp_path):
    cache, base = Cache(tmp_path / "new" / "folder"), torch.randn(6, 8)
    put = {
        "half": base.half(), "brain": base.bfloat16(), "double": base.double(), "bytes": torch.arange(5, dtype=torch.uint8),
        "turned": base.t(), "part": base[:, 2], "shared": base, "scalar": torch.tensor(3.5), "none": torch.zeros(0, 4),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]), "bool": base > 0, "long": torch.tensor([-(2**62)]),
        "learned": base.clone().requires_grad_(),
    }  # fmt: skip
    assert cache.get("k") is None
    assert cache.put("k", put)
    got = cache.get("k")
    assert got is not None and same_bits(put, got)
    assert not any(t.requires_grad for t in got.values()) and put["learned"].requires_grad
    assert cache.put("empty", {}) and cache.get("empty") == {}


def test_results_are_fit_for_autograd_and_apart_from_each_other(tmp_path):
    cache = Cache(tmp_path)
    with torch.inference_mode():
        made = cache.remember("k", lambda: tensors())
        got = cache.get("k")
    assert got is not None
    for found in (made, got):
        assert not found["x"].is_inference()
        weight = torch.ones(250, requires_grad=True)
        (weight * found["x"]).sum().backward()
        assert torch.equal(weight.grad, tensors()["x"])
    got["x"].zero_()
    assert same_bits(cache.get("k"), tensors())


def test_remember_makes_a_thing_once(tmp_path):
    cache, calls = Cache(tmp_path), []

    def make():
        calls.append(1)
        return tensors(3)

    first, second = cache.remember("k", make), cache.remember("k", make)
    assert same_bits(first, second) and same_bits(first, tensors(3)) and len(calls) == 1
    assert same_bits(Cache(tmp_path).remember("k", make), first) and len(calls) == 1
    cache.clear()
    cache.remember("k", make)
    assert len(calls) == 2


# --- the bound ---


def entry_bytes(tmp_path):
    probe = Cache(tmp_path / "probe")
    probe.put("k", tensors())
    return probe.size()


def kept(cache, keys):
    """Which keys are there, told without using them."""
    return [k for k in keys if cache._path(k).exists()]


def test_the_least_recently_used_goes_first(tmp_path):
    one = entry_bytes(tmp_path)
    cache = Cache(tmp_path / "c", max_bytes=4 * one + 20)
    for k in "abcd":
        assert cache.put(k, tensors())
    assert cache.get("a") is not None and cache.get("c") is not None
    for k, left in (("e", "acde"), ("f", "acef"), ("g", "cefg")):
        assert cache.put(k, tensors())
        assert kept(cache, "abcdefg") == list(left)
        assert cache.size() <= cache.max_bytes


def test_random_use_equals_a_list_in_order_of_use(tmp_path):
    one, rng, order = entry_bytes(tmp_path), random.Random(1), []
    cache = Cache(tmp_path / "c", max_bytes=5 * one)
    for _ in range(150):
        key = rng.choice("abcdefgh")
        if rng.random() < 0.5:
            assert (cache.get(key) is not None) == (key in order)
            if key in order:
                order.remove(key)
                order.append(key)
        else:
            assert cache.put(key, tensors())
            order = [*[k for k in order if k != key][-4:], key]
        assert kept(cache, "abcdefgh") == sorted(order)
        assert cache.size() == one * len(order)


def test_an_entry_larger_than_half_the_bound_is_not_stored(tmp_path):
    one = entry_bytes(tmp_path)
    cache = Cache(tmp_path / "c", max_bytes=2 * one - 1)
    assert not cache.put("k", tensors()) and cache.size() == 0
    assert same_bits(cache.remember("k", tensors), tensors()) and cache.get("k") is None
    assert Cache(tmp_path / "c", max_bytes=2 * one).put("k", tensors())


def test_clear_frees_what_size_tells_and_leaves_foreign_files(tmp_path):
    cache = Cache(tmp_path)
    for k in "abc":
        cache.put(k, tensors())
    foreign = ["notes.txt", "model.safetensors", "fmn-" + "0" * 63 + ".safetensors", "fmn-" + "0" * 64 + ".pt"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    (tmp_path / ("fmn-" + "0" * 64 + ".safetensors")).mkdir()
    unfinished = tmp_path / ("fmn-" + "1" * 64 + ".abc_1.tmp")
    unfinished.write_bytes(b"x" * 100)
    size = cache.size()
    assert size == 100 + 3 * entry_bytes(tmp_path / "p")
    assert cache.clear() == size and cache.size() == 0 == cache.clear()
    assert all((tmp_path / name).read_text() == "mine" for name in foreign)
    assert Cache(tmp_path / "nowhere").clear() == 0 == Cache(tmp_path / "nowhere").size()


def test_eviction_leaves_foreign_files(tmp_path):
    one = entry_bytes(tmp_path / "p")
    (tmp_path / "large.safetensors").write_bytes(b"x" * 10 * one)
    cache = Cache(tmp_path, max_bytes=2 * one)
    assert all(cache.put(k, tensors()) for k in "abcd") and kept(cache, "abcd") == ["c", "d"]
    assert (tmp_path / "large.safetensors").stat().st_size == 10 * one


# --- damage ---


def damaged(data):
    yield "empty", b""
    yield "short header", data[:5]
    yield "half", data[: len(data) // 2]
    yield "one byte short", data[:-1]
    yield "longer", data + b"\0"
    yield "foreign", b"PK\x03\x04 not a tensor in sight"
    yield "huge header", b"\xff" * 8 + data[8:]
    for at in (3, 20, len(data) // 2, len(data) - 1):
        yield f"byte {at}", data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def test_damaged_files_are_misses_and_are_removed(tmp_path, caplog):
    cache = Cache(tmp_path)
    cache.put("k", tensors())
    path, data = cache._path("k"), cache._path("k").read_bytes()
    for name, wrong in damaged(data):
        path.write_bytes(wrong)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert cache.get("k") is None, name
        assert not path.exists() and "damaged" in caplog.text, name
        assert same_bits(cache.remember("k", tensors), tensors())
        assert same_bits(cache.get("k"), tensors())


def test_files_of_another_key_or_another_program_are_misses(tmp_path):
    from safetensors.torch import save_file

    cache = Cache(tmp_path)
    cache.put("other", tensors(1))
    os.replace(cache._path("other"), cache._path("k"))
    assert cache.get("k") is None and not cache._path("k").exists()
    save_file(tensors(), cache._path("k"))
    assert cache.get("k") is None and not cache._path("k").exists()


# --- hostile folders ---


def test_a_folder_that_cannot_be_is_no_error(tmp_path, caplog):
    (tmp_path / "file").write_text("a file where a folder should be")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        cache = Cache(folder)
        with caplog.at_level(logging.WARNING):
            assert not cache.put("k", tensors())
            assert same_bits(cache.remember("k", tensors), tensors())
            assert cache.get("k") is None and cache.size() == 0 == cache.clear()
    assert "the cache did not store" in caplog.text
    assert (tmp_path / "file").read_text().startswith("a file")


@contextlib.contextmanager
def ordinary_user():
    """Root may write anywhere: be someone else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_read_only_folder_can_be_read_and_nothing_raises(caplog):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = Cache(folder, max_bytes=10**6)
        cache.put("k", tensors())
        cache.put("bad", tensors())
        cache._path("bad").write_bytes(b"damaged")
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        try:
            with ordinary_user(), caplog.at_level(logging.WARNING):
                assert same_bits(cache.get("k"), tensors())
                assert cache.get("bad") is None
                assert not cache.put("new", tensors()) and not Cache(folder, max_bytes=cache.size() + 8).put("n", {})
                assert cache.clear() == 0 and len(cache._files()) == 2
        finally:
            folder.chmod(0o755)
        assert "cannot be removed" in caplog.text and "the cache did not store" in caplog.text


def test_a_full_disk_leaves_no_half_file(tmp_path, caplog):
    resource = pytest.importorskip("resource")
    cache = Cache(tmp_path)
    cache.put("small", tensors())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # a limit on file sizes makes a write fail as a full disk does, in the middle
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with caplog.at_level(logging.WARNING):
            assert not cache.put("large", tensors(length=10_000))
            assert same_bits(cache.remember("large", lambda: tensors(length=10_000)), tensors(length=10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the cache did not store" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == [cache._path("small").name]
    assert cache.put("large", tensors(length=10_000))


def test_a_type_that_cannot_be_stored_is_no_error(tmp_path):
    made = {"x": torch.zeros(2, dtype=torch.complex128)}
    cache = Cache(tmp_path)
    assert same_bits(cache.remember("k", lambda: made), made) and cache.get("k") is None


# --- together ---


def hammer(cache, seed, turns, failures):
    rng = random.Random(seed)
    try:
        for _ in range(turns):
            number = rng.randrange(6)
            wanted = tensors(number)
            if rng.random() < 0.05:
                cache.clear()
            found = cache.remember(str(number), lambda wanted=wanted: wanted)
            if not same_bits(found, wanted):
                failures.append(f"{number} is not what was put")
    except Exception as error:
        failures.append(repr(error))


def test_threads_that_share_a_folder_never_see_wrong_or_half_entries(tmp_path, caplog):
    one, failures = entry_bytes(tmp_path / "p"), []
    caches = [Cache(tmp_path / "c", max_bytes=4 * one) for _ in range(2)]
    threads = [threading.Thread(target=hammer, args=(c, i, 150, failures)) for i, c in enumerate(caches)]
    with caplog.at_level(logging.WARNING):
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert failures == [] and "damaged" not in caplog.text
    assert caches[0].size() <= 4 * one
    assert not [p for p in (tmp_path / "c").iterdir() if p.suffix == ".tmp"]


def test_processes_that_share_a_folder_never_see_wrong_or_half_entries(tmp_path):
    one = entry_bytes(tmp_path / "p")
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/unit']\n"
        "from pathlib import Path; import test_cache as t\n"
        "failures = []; t.hammer(t.Cache(Path(sys.argv[1]), int(sys.argv[2])), int(sys.argv[3]), 100, failures)\n"
        "print(failures)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "c"), str(4 * one)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(seed)], cwd=REPOSITORY, **pipe) for seed in (1, 2)]
    for process in running:
        out, errors = process.communicate(timeout=120)
        assert out.strip() == "[]" and "damaged" not in errors, errors
    assert Cache(tmp_path / "c").size() <= 4 * one


# --- keys of models ---


def test_the_key_of_a_model_tells_models_apart_and_repeats():
    keys = [model_key(ToyModel(seed=s)) for s in (0, 1, 0)]
    assert keys[0] == keys[2] != keys[1]
    with torch.inference_mode():
        assert model_key(ToyModel()) == keys[0]
    assert text_key(ToyModel(seed=0)) == text_key(ToyModel(seed=0)) != text_key(ToyModel(seed=1))


@pytest.mark.parametrize("projection", ["to_q", "to_k", "to_v", "to_out.0"])
def test_a_low_rank_change_of_any_layer_changes_the_key(projection):
    model = ToyModel()
    before, text = model_key(model), text_key(model)
    for layer in model.layers:
        weight = layer.projections[projection].weight
        kept = weight.data.clone()
        weight.data = kept + 0.01 * torch.outer(*(torch.randn(n) for n in weight.shape))
        assert model_key(model) != before and text_key(model) == text
        weight.data = kept
    assert model_key(model) == before


class Flat(ToyModel):
    """No prompt's context reaches into the first dimension."""

    def encode(self, prompts, words=None):
        found = super().encode(prompts, words)
        for e in found:
            e.context[:, 0] = 0
        return found


def test_a_change_that_leaves_ordinary_prompts_alone_changes_the_key():
    model = Flat()
    before = model_key(model)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = model.encode(["", PROBE_PROMPT])
    prediction = model.denoise(x, torch.ones(2), prompts)
    model.layers[0].projections["to_v"].weight.data[:, 0] += 0.01
    assert torch.equal(model.denoise(x, torch.ones(2), prompts), prediction)
    assert model_key(model) != before


def test_the_text_encoder_and_the_noise_levels_count():
    model = ToyModel()
    before, text = model_key(model), text_key(model)
    model.mix = model.mix * 1.05
    assert model_key(model) != before and text_key(model) != text
    one_word = ToyModel()
    one_word.table[one_word.ids("zebra")[0]] += 0.1
    assert text_key(one_word) != text
    schedule = ToyModel()
    levels = schedule.sigmas()
    levels[-1] += 1
    schedule.sigmas = lambda: levels
    assert model_key(schedule) != before
