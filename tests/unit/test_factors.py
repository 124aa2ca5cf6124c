"""Factors of a matrix: the best against a plain SVD, their rank, and what they move."""

import pytest
import torch

from fmn_core.patch.factors import best_factors, mean_square_change, smallest_rank, weighted_range

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


def test_weighted_range_beats_other_subspaces_of_its_rank():
    g = torch.Generator().manual_seed(2)
    edit, root = torch.randn(8, 8, generator=g).double(), torch.randn(8, 8, generator=g).double()
    moment = root @ root.T
    basis, residual = weighted_range(edit, moment, 0.0, 3)

    def left(u):
        e = edit - u @ (u.T @ edit)
        return float((e @ moment @ e.T).trace())

    total = float((edit @ moment @ edit.T).trace())
    assert residual == pytest.approx(left(basis) / total, rel=1e-9)
    for seed in range(20):
        other, _ = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)).double())
        assert left(other) >= left(basis)


def test_movement_from_factors_equals_that_of_the_dense_change():
    g = torch.Generator().manual_seed(5)
    parts = [(torch.randn(5, r, generator=g).double(), torch.randn(r, 7, generator=g).double()) for r in (2, 3)]
    rows = torch.randn(11, 7, generator=g).double()
    dense = sum(up @ down for up, down in parts)
    assert mean_square_change(parts, rows.T @ rows) == pytest.approx(float(((rows @ dense.T) ** 2).sum()), rel=1e-12)


def test_smallest_rank():
    s = torch.tensor([3.0, 1.0, 0.1])
    assert smallest_rank(s, 0.5, 3) == 1
    assert smallest_rank(s, 0.01, 3) == 2
    assert smallest_rank(s, 0.0, 2) == 2
    assert smallest_rank(torch.zeros(3), 0.1, 3) == 1
