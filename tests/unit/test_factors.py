"""Best factors of a matrix, against a plain SVD."""

import pytest
import torch

from fmn_core.patch.factors import best_factors

SHAPES = pytest.mark.parametrize("shape", [(40, 60), (60, 40), (30, 30), (1, 5)])


@SHAPES
@pytest.mark.parametrize("rank", [1, 7, 100])
@pytest.mark.parametrize("decay", [0.95, 0.6])
def test_best_factors_are_a_plain_svds(shape, rank, decay):
    g = torch.Generator().manual_seed(1)
    u, _, vh = torch.linalg.svd(torch.randn(*shape, generator=g, dtype=torch.float64), full_matrices=False)
    s = decay ** torch.arange(min(shape), dtype=torch.float64)
    matrix = u * s @ vh
    up, down, left = best_factors(matrix, rank)
    kept = min(rank, *shape)
    assert up.shape[1] == down.shape[0] <= kept
    best = u[:, :kept] * s[:kept] @ vh[:kept]
    torch.testing.assert_close(up @ down, best, atol=1e-6, rtol=0)
    assert left == pytest.approx(float((s[kept:] ** 2).sum() / (s**2).sum()), abs=1e-10)
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), atol=1e-6, rtol=1e-6)


def test_nothing_learned_has_factors_of_zero():
    up, down, left = best_factors(torch.zeros(6, 4, dtype=torch.float64), 3)
    assert left == 0 and not (up @ down).any() and up.isfinite().all() and down.isfinite().all()
