"""Moments whose rows come many prompts at a time, as on a device, against prompt by prompt."""

import pytest
import torch

from fmn_core.closed_form.moments import Moments, MomentSums


def prompts(count: int, dim: int = 6) -> list[tuple[torch.Tensor, ...]]:
    """Sources, targets, named rows and weights that sum to whole numbers, of prompts of several lengths."""
    g = torch.Generator().manual_seed(0)
    found = []
    for n in range(count):
        rows, names = 3 + n % 4, 1 + n % 2
        weight = torch.ones(rows)
        weight[-1] = 60
        parts = (torch.randn(k, dim, generator=g) for k in (rows, rows, names))
        found.append((*parts, weight, torch.ones(names)))
    return found


@pytest.mark.parametrize("rows", [1, 20, 10_000])
def test_batched_moments_are_those_of_single_prompts(rows):
    plain, batched = Moments.empty(6), MomentSums(Moments.empty(6), rows)
    for source, target, named, weight, named_weight in prompts(23):
        plain.add_pair(source, target, named, weight, named_weight)
        plain.add_preserved(target, weight)
        batched.add_pair(source, target, named, weight, named_weight)
        batched.add_preserved(target, weight)
    found = batched.result()
    for name in ("cc", "tc", "tt", "pp", "named", "nn"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), atol=1e-9, rtol=1e-12)
    assert (found.names, found.sources, found.preserved) == (plain.names, plain.sources, plain.preserved)


def test_on_the_cpu_the_sums_have_the_same_bits():
    plain, sums = Moments.empty(6), MomentSums(Moments.empty(6))
    for pair in prompts(9):
        plain.add_pair(*pair)
        sums.add_pair(*pair)
    assert torch.equal(plain.cc, sums.result().cc) and torch.equal(plain.nn, sums.result().nn)
