"""Spaces smaller than the width of the text, in which a solve for wide models is as good."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Widest text that is solved for in its whole width: that of SDXL. Time grows with the third power of the width.
WIDEST = 2048
# Dimensions of the space for wider ones.
LEADING = 1024
_SEED = 0


def row_space(
    sources: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    kept: Sequence[torch.Tensor],
    others: Sequence[torch.Tensor] = (),
) -> torch.Tensor | None:
    """An orthonormal basis (width, dim) of the space to solve in, in float64; None where that would not be much smaller.

    Parameters
    ----------
    sources, targets
        Rows that are steered, and where to; each (n, width).
    kept
        Rows that are preserved.
    others
        Rows on which the edit is measured.

    Notes
    -----
    An edit changes nothing in directions that no row has, so that a solve in the space of few rows is the same solve. Of many wide rows it is
    the space of X = C (C* - C)^T, M X and the leading directions of M, with M the system: the solution M^-1 X is nearly in it (a block Krylov
    space, and randomised range finding: Halko et al., SIAM Review 2011).
    """
    width, count = sources[0].shape[1], sum(len(rows) for group in (sources, targets, kept, others) for rows in group)
    if 2 * count <= width:
        return torch.linalg.qr(torch.cat([*sources, *targets, *kept, *others]).double().T).Q
    if width <= WIDEST:
        return None
    source, way = torch.cat(list(sources)), torch.cat([t - s for s, t in zip(sources, targets, strict=True)])
    system, part = [source, torch.cat(list(kept))], LEADING // 4
    generator = torch.Generator().manual_seed(_SEED)
    cross = _orthonormal(source.T @ (way @ torch.randn(width, part, generator=generator).to(source)))
    leading = _orthonormal(_times(system, torch.randn(width, 2 * part, generator=generator).to(source)))
    return _orthonormal(torch.cat([cross, _orthonormal(_times(system, cross)), _times(system, leading)], 1).double())


def _times(system: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """M X with M the mean of the second moments of the groups of rows."""
    return sum((rows.T @ (rows @ x) / len(rows) for rows in system if len(rows)), torch.zeros_like(x))


def _orthonormal(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.qr(x / x.norm(dim=0).clamp_min(1e-12)).Q
