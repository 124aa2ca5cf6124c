"""Moments whose rows come many prompts at a time, as on a device, against prompt by prompt."""

import pytest
import torch

from fmn_core.closed_form.moments import Moments, MomentSums


def prompts(count: int, dim: int = 6) -> list[tuple[torch.Tensor, ...]]:
    """Sources, targets and weights that sum to whole numbers, of prompts of several lengths."""
    g = torch.Generator().manual_seed(0)
    found = []
    for n in range(count):
        rows = 3 + n % 4
        weight = torch.ones(rows)
        weight[-1] = 60
        found.append((torch.randn(rows, dim, generator=g), torch.randn(rows, dim, generator=g), weight))
    return found


@pytest.mark.parametrize("rows", [1, 20, 10_000])
def test_batched_moments_are_those_of_single_prompts(rows):
    plain, batched = Moments.empty(6), MomentSums(Moments.empty(6), rows)
    for source, target, weight in prompts(23):
        plain.add_pair(source, target, weight)
        plain.add_preserved(target, weight)
        batched.add_pair(source, target, weight)
        batched.add_preserved(target, weight)
    found = batched.result()
    for name in ("cc", "tc", "tt", "pp"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), atol=1e-9, rtol=1e-12)
    assert (found.sources, found.preserved) == (plain.sources, plain.preserved)


def test_on_the_cpu_the_sums_have_the_same_bits():
    plain, sums = Moments.empty(6), MomentSums(Moments.empty(6))
    for pair in prompts(9):
        plain.add_pair(*pair)
        sums.add_pair(*pair)
    assert torch.equal(plain.cc, sums.result().cc) and torch.equal(plain.tc, sums.result().tc)


def test_the_share_of_the_way_that_an_edit_goes():
    """Against the rows themselves: the projection of each row's change on its way to the target."""
    g = torch.Generator().manual_seed(4)
    source, target = torch.randn(2, 12, 6, dtype=torch.float64, generator=g)
    edit, w = torch.randn(2, 6, 6, dtype=torch.float64, generator=g)
    moments = Moments.empty(6)
    moments.add_pair(source, target)
    change, way = source @ edit.T @ w.T, (target - source) @ w.T
    assert moments.reached(edit, w.T @ w) == pytest.approx(float((change * way).sum() / (way**2).sum()))
    assert moments.reached(edit * 2, w.T @ w) == pytest.approx(2 * moments.reached(edit, w.T @ w))
