"""Low-rank factorisation of weight changes, plain or weighted by the second moment of the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def smallest_rank(singular_values: torch.Tensor, tolerance: float, limit: int) -> int:
    """The smallest rank, 1..limit, that discards at most a share `tolerance` of the energy (sum of squares)."""
    energy = singular_values.double() ** 2
    total = energy.sum()
    if total == 0:
        return 1
    discarded = 1 - energy.cumsum(0) / total
    sufficient = (discarded <= tolerance).nonzero()
    rank = int(sufficient[0]) + 1 if len(sufficient) else len(singular_values)
    return max(1, min(rank, limit, len(singular_values)))


def matrix_root(matrix: torch.Tensor) -> torch.Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return (vectors * eigenvalues.clamp_min(0).sqrt()) @ vectors.T


def weighted_range(
    edit: torch.Tensor, second_moment: torch.Tensor, tolerance: float, limit: int
) -> tuple[torch.Tensor, float]:
    """Finds the best low-rank range of an edit E for inputs x of a given second moment.

    Parameters
    ----------
    edit
        E (dim, in).
    second_moment
        E[x x^T] (in, in).
    tolerance
        Share of the energy E |E x|^2 that may be discarded, 0..1.
    limit
        Largest rank.

    Returns
    -------
    U (dim, r), orthonormal, and the share of energy that is discarded.

    Notes
    -----
    U minimises E |(E - U U^T E) x|^2: it holds the left singular vectors of E second_moment^(1/2).
    """
    eigenvalues, u = torch.linalg.eigh(edit @ second_moment @ edit.T)
    energy, u = eigenvalues.flip(0).clamp_min(0).cpu(), u.flip(1)
    rank = smallest_rank(energy.sqrt(), tolerance, limit)
    residual = float(energy[rank:].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    return u[:, :rank], residual


def mean_square_change(factors: Sequence[tuple[torch.Tensor, torch.Tensor]], moment: torch.Tensor) -> float:
    """E |dW x|^2, the mean square change of a layer's output, without forming dW.

    Parameters
    ----------
    factors
        Pairs of up (out, r) and down (r, in); dW is the sum of up @ down.
    moment
        Second moment (in, in) of the inputs x.
    """
    up = torch.cat([up.double() for up, _ in factors], 1)
    down = torch.cat([down.double() for _, down in factors])
    return float(((up.T @ up) * (down @ moment @ down.T)).sum())


def best_factors(matrix: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factorises a matrix (out, in) with the least squared error.

    Parameters
    ----------
    matrix
        In float64.
    limit
        Largest rank.

    Returns
    -------
    up (out, r) and down (r, in), r <= limit, of equal norm for each rank, and the share of energy that is discarded.

    Notes
    -----
    A truncated SVD by the eigenvectors of the smaller Gram matrix takes a fraction of a whole SVD's time. Squaring halves the digits
    of the small singular values, of which float64 has enough.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    eigenvalues, vectors = torch.linalg.eigh(wide @ wide.T)
    energy, vectors = eigenvalues.flip(0).clamp_min(0), vectors.flip(1)
    rank = smallest_rank(energy.sqrt(), 0.0, limit)
    left_vectors = vectors[:, :rank]
    scaled = left_vectors.T @ wide  # right singular vectors as rows, times the singular values
    root = scaled.norm(dim=1).sqrt()
    up, down = left_vectors * root, scaled / root[:, None].clamp_min(1e-150)
    residual = float(energy[rank:].sum() / energy.sum().clamp_min(1e-300))
    return (down.T, up.T, residual) if tall else (up, down, residual)
