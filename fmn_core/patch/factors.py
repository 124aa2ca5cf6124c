"""Low-rank factorisation of weight changes."""

from __future__ import annotations

from collections.abc import Sequence

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
    values, u = torch.linalg.eigh(edit @ second_moment @ edit.T)
    energy, u = values.flip(0).clamp_min(0).cpu(), u.flip(1)
    rank = smallest_rank(energy.sqrt(), tolerance, limit)
    residual = float(energy[rank:].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    return u[:, :rank], residual


def moved_square(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], moment: torch.Tensor) -> float:
    """E |dW x|^2 for dW = sum up @ down, (out, r) and (r, in) each, and inputs x of this second moment (in, in); dW is never formed."""
    up = torch.cat([up.double() for up, _ in parts], 1)
    down = torch.cat([down.double() for _, down in parts])
    return float(((up.T @ up) * (down @ moment @ down.T)).sum())


def best_factors(matrix: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The best factors up (out, r), down (r, in) of a float64 matrix with r <= `limit`, of equal norm, and the share of energy left behind.

    Truncated SVD through the eigenvectors of the smaller Gram matrix: a fraction of a whole SVD's time. Squaring halves the digits of
    the small singular values, of which float64 has enough.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    energy, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    rank = smallest_rank(energy.sqrt(), 0.0, limit)
    first = vectors[:, :rank]
    scaled = first.T @ wide  # rows of the right singular vectors times the singular values
    root = scaled.norm(dim=1).sqrt()
    up, down = first * root, scaled / root[:, None].clamp_min(1e-150)
    left = float(energy[rank:].sum() / energy.sum().clamp_min(1e-300))
    return (down.T, up.T, left) if tall else (up, down, left)
