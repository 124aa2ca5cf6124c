"""The cache in memory: exact results, a bound in bytes, threads."""

import random
import threading

import torch

from fmn_core.model.content_key import content_key
from fmn_core.model.memory_cache import Cache

ENTRY = 1000


def tensors(seed=0, length=ENTRY // 4):
    return {"x": torch.randn(length, generator=torch.Generator().manual_seed(seed))}


def same_bits(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and content_key(a[k]) == content_key(b[k]) for k in a
    )


def test_what_is_got_is_what_was_put_bit_for_bit():
    cache, base = Cache(), torch.randn(6, 8)
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


def test_results_are_fit_for_autograd_and_apart_from_the_entry():
    cache, put = Cache(), tensors()
    with torch.inference_mode():
        made = cache.remember("k", lambda: put)
        got = cache.get("k")
    assert got is not None
    for found in (made, got):
        assert not found["x"].is_inference()
        weight = torch.ones(250, requires_grad=True)
        (weight * found["x"]).sum().backward()
        assert torch.equal(weight.grad, tensors()["x"])
    for changed in (put, made, got):
        changed["x"].zero_()
        assert same_bits(cache.get("k"), tensors())


def test_remember_makes_a_thing_once():
    cache, calls = Cache(), []

    def make():
        calls.append(1)
        return tensors(3)

    first, second = cache.remember("k", make), cache.remember("k", make)
    assert same_bits(first, second) and same_bits(first, tensors(3)) and len(calls) == 1
    assert cache.clear() == ENTRY and cache.size() == 0
    cache.remember("k", make)
    assert len(calls) == 2


def test_random_use_equals_a_list_in_order_of_use():
    rng, order, cache = random.Random(1), [], Cache(5 * ENTRY + 20)
    for _ in range(500):
        key = rng.choice("abcdefgh")
        if rng.random() < 0.5:
            assert (cache.get(key) is not None) == (key in order)
            if key in order:
                order.remove(key)
                order.append(key)
        else:
            assert cache.put(key, tensors())
            order = [*[k for k in order if k != key][-4:], key]
        assert cache.size() == ENTRY * len(order)


def test_an_entry_larger_than_the_bound_is_not_stored_and_removes_none():
    cache = Cache(2 * ENTRY)
    cache.put("a", tensors(1))
    large = tensors(length=1 + 2 * ENTRY // 4)
    assert not cache.put("k", large) and same_bits(cache.get("a"), tensors(1))
    assert same_bits(cache.remember("k", lambda: large), large) and cache.get("k") is None
    assert cache.put("k", tensors(2, 2 * ENTRY // 4)) and cache.get("a") is None and cache.size() == 2 * ENTRY


def test_a_replaced_entry_counts_once():
    cache = Cache()
    cache.put("k", tensors(length=10))
    cache.put("k", tensors(length=20))
    assert cache.size() == 80 and len(cache.get("k")["x"]) == 20


def test_a_view_takes_no_more_than_what_it_shows():
    """A slice that kept the whole tensor alive would take memory that the bound does not see."""
    cache = Cache()
    cache.put("k", {"x": torch.zeros(1_000_000)[:10]})
    assert cache.get("k")["x"].untyped_storage().nbytes() == 40 == cache.size()


def hammer(cache, seed, turns, failures):
    rng = random.Random(seed)
    try:
        for _ in range(turns):
            number = rng.randrange(6)
            wanted = tensors(number)
            if rng.random() < 0.05:
                cache.clear()
            if not same_bits(cache.remember(str(number), lambda wanted=wanted: wanted), wanted):
                failures.append(f"{number} is not what was put")
            if cache.size() > cache.max_bytes:
                failures.append(f"{cache.size()} bytes")
    except Exception as error:
        failures.append(repr(error))


def test_threads_that_share_a_cache_never_see_wrong_entries():
    cache, failures = Cache(4 * ENTRY), []
    threads = [threading.Thread(target=hammer, args=(cache, i, 300, failures)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert cache.clear() in range(0, 4 * ENTRY + 1, ENTRY) and cache.size() == 0
