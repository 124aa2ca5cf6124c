"""How large a patch's changes are, from their factors: no change is multiplied out unless a bound leaves a doubt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .patch import Factors

_ROWS = 256
# |dW| / |W|: from the first on a layer is mostly the patch's, below the second all of it is lost in rounding.
DROWNED, UNFELT = 1.0, 1e-5


def largest_entry(factors: Factors, limit: float) -> float:
    """An upper bound of max |dW|, exact where the bound is above `limit`; infinite where single precision overflows on the way.

    Notes: an entry of up @ down is at most the norm of its row of `up` times that of its column of `down` (Cauchy-Schwarz).
    """
    up, down = factors.up.flatten(1), factors.down.flatten(1)
    scale = factors.alpha / factors.rank
    rows, columns = (torch.linalg.vector_norm(m, dim=d, dtype=torch.float64) for m, d in ((up, 1), (down, 0)))
    bound = float(rows.max() * columns.max())
    if bound * max(1.0, abs(scale)) <= limit:
        return bound * abs(scale)
    # As the host computes it: the product in single precision first, then the scale.
    single = down.float()
    entries = [float((part.float() @ single).abs().max()) for part in up.split(_ROWS)]
    # max() would drop NaN, which infinity minus infinity gives.
    return max(entries) * abs(scale) if all(e <= torch.finfo(torch.float32).max for e in entries) else float("inf")


def change_norm(factors: Factors) -> float:
    """|dW|, the Frobenius norm, as the root of tr(up^T up down down^T) (alpha / rank)^2."""
    up, down = factors.up.flatten(1).double(), factors.down.flatten(1).double()
    square = ((up.T @ up) * (down @ down.T)).sum().clamp_min(0)
    return float(square.sqrt()) * abs(factors.alpha / factors.rank)


def size_report(layers: Sequence[tuple[Factors, float]], strength: float) -> list[str]:
    """Warnings for the report, given each layer's factors and the norm of its weight: a change that drowns it, or that none can feel."""
    ratios = [abs(strength) * change_norm(f) / max(norm, 1e-30) for f, norm in layers]
    if max(ratios) < UNFELT:
        return [f"warning: the patch hardly changes the model: no layer by more than {max(ratios):.0e} of its weights"]
    drowned = [r for r in ratios if r > DROWNED]
    if not drowned:
        return []
    return [
        f"warning: the change of {len(drowned)} of {len(ratios)} layers is up to {max(drowned):.3g} times as large as the weights; "
        "pictures may be noise or black: lower the strength"
    ]
