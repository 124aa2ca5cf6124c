"""Low-rank factorisation of weight changes."""

from __future__ import annotations

import torch


def smallest_rank(singular_values: torch.Tensor, tolerance: float, limit: int) -> int:
    """The smallest rank (1..limit) that leaves at most `tolerance` of the energy (sum of squares) behind."""
    energy = singular_values.double() ** 2
    total = energy.sum()
    if total == 0:
        return 1
    left = 1 - energy.cumsum(0) / total
    enough = (left <= tolerance).nonzero()
    rank = int(enough[0]) + 1 if len(enough) else len(singular_values)
    return max(1, min(rank, limit, len(singular_values)))


def matrix_root(matrix: torch.Tensor) -> torch.Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def weighted_range(edit: torch.Tensor, second_moment: torch.Tensor, tolerance: float, limit: int):
    """Best low-rank range of an edit on inputs with the given second moment.

    Minimises E |(E - U U^T E) x|^2 over orthonormal U of rank r, x having second moment `second_moment`: the left
    singular vectors of E second_moment^(1/2). Returns U (dim, r) and the share of energy left behind.
    """
    u, s, _ = torch.linalg.svd(edit @ matrix_root(second_moment), full_matrices=False)
    rank = smallest_rank(s, tolerance, limit)
    energy = s**2
    residual = float(energy[rank:].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    return u[:, :rank], residual
