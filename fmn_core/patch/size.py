"""Magnitudes of a patch's changes, computed from the factors without forming dW where a bound suffices."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .patch import Factors

_ROWS_AT_ONCE = 256
# Ratios |dW| / |W|: above the first a layer is mostly the patch's, below the second the change is lost in rounding.
OVERWHELMING_RATIO, NEGLIGIBLE_RATIO = 1.0, 1e-5


def largest_entry(factors: Factors, limit: float) -> float:
    """The largest entry of |dW|: an upper bound where that is at most `limit`, else the exact value.

    The value is infinite where the product overflows single precision.

    Notes
    -----
    The bound is Cauchy-Schwarz: an entry of up @ down is at most the norm of its row of `up` times that of its column of `down`.
    """
    up, down = factors.up.flatten(1), factors.down.flatten(1)
    scale = factors.alpha / factors.rank
    rows, columns = (torch.linalg.vector_norm(m, dim=d, dtype=torch.float64) for m, d in ((up, 1), (down, 0)))
    bound = float(rows.max() * columns.max())
    if bound * max(1.0, abs(scale)) <= limit:
        return bound * abs(scale)
    # ComfyUI multiplies the factors in single precision, then scales the product.
    single = down.float()
    entries = [float((rows.float() @ single).abs().max()) for rows in up.split(_ROWS_AT_ONCE)]
    # max() would ignore NaN, which infinity minus infinity gives.
    return max(entries) * abs(scale) if all(e <= torch.finfo(torch.float32).max for e in entries) else float("inf")


def change_norm(factors: Factors) -> float:
    """The Frobenius norm of dW, as alpha / rank times the square root of tr(up^T up down down^T)."""
    up, down = factors.up.flatten(1).double(), factors.down.flatten(1).double()
    square = ((up.T @ up) * (down @ down.T)).sum().clamp_min(0)
    return float(square.sqrt()) * abs(factors.alpha / factors.rank)


def magnitude_warnings(layers: Sequence[tuple[Factors, float]], strength: float) -> list[str]:
    """Warns about a patch that is too large or too small for the model.

    Parameters
    ----------
    layers
        Each layer's factors, and the Frobenius norm of its weight.
    strength
        Strength at which the patch is applied.

    Returns
    -------
    Lines for the report; none where the patch is of a usual size.
    """
    ratios = [abs(strength) * change_norm(f) / max(norm, 1e-30) for f, norm in layers]
    if max(ratios) < NEGLIGIBLE_RATIO:
        return [f"warning: the patch hardly changes the model: no layer by more than {max(ratios):.0e} of its weights"]
    overwhelming = [r for r in ratios if r > OVERWHELMING_RATIO]
    if not overwhelming:
        return []
    return [
        f"warning: the change of {len(overwhelming)} of {len(ratios)} layers is up to {max(overwhelming):.3g} times as large as the weights; "
        "pictures may be noise or black: lower the strength"
    ]
