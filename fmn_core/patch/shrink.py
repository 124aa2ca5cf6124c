"""Rank reduction of patches by SVD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import ForgetError
from ..options import option, options
from .factors import smallest_rank
from .patch import Factors, ForgetPatch

Precision = Literal["fp16", "bf16", "fp32"]
DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@options
class ShrinkSettings:
    """Rank and precision of a smaller patch."""

    rank: int = option(default=8, help="Upper bound of the LoRA rank of a layer.", minimum=1, maximum=1024)
    tolerance: float = option(
        default=0.0,
        help="Share of a layer's energy that may be left behind where a lower rank will do. 0: the rank alone counts.",
        minimum=0.0,
        maximum=0.5,
        step=0.001,
    )
    precision: Precision = option(default="fp16", help="Precision of the factors in the file.")

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return DTYPES[self.precision]


@dataclass
class ShrunkPatch:
    """A patch of lower rank, and the share of |dW|^2 that was discarded: per layer (`residuals`) and of all layers (`residual`)."""

    patch: ForgetPatch
    residuals: dict[str, float]
    residual: float


def reduce_rank(
    factors: Factors, limit: int, tolerance: float = 0.0, root: torch.Tensor | None = None
) -> tuple[Factors, float]:
    """Reduces a layer's factors to the smallest rank that keeps enough of their energy.

    Parameters
    ----------
    factors
        The layer's factors. Kernels count as matrices (out, in * k * k).
    limit
        Largest rank.
    tolerance
        Share of the energy that may be discarded, 0..1.
    root
        Square root (in, in) of the second moment of the layer's inputs x. With it the energy is E |dW x|^2, else |dW|^2.

    Returns
    -------
    The factors of least error, with alpha = rank, and the share of energy that was discarded.
    """
    up, down = factors.up.double().flatten(1), factors.down.double().flatten(1) * (factors.alpha / factors.rank)
    basis, triangle = torch.linalg.qr(up)
    core = triangle @ down
    u, s, _ = torch.linalg.svd(core if root is None else core @ root, full_matrices=False)
    rank = smallest_rank(s, tolerance, limit)
    energy = s**2
    residual = float(energy[rank:].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    new_up, new_down = basis @ u[:, :rank], u[:, :rank].T @ core
    matrices = balanced(new_up, new_down)
    kernels = (
        matrices.up.reshape(*new_up.shape, *factors.up.shape[2:]),
        matrices.down.reshape(rank, *factors.down.shape[1:]),
    )
    return Factors(*kernels, float(rank)), residual


def balanced(up: torch.Tensor, down: torch.Tensor) -> Factors:
    """Scales up (out, r) and down (r, in) to equal norms, so that both fit half precision.

    Returns
    -------
    Factors in float32 on the CPU, with alpha = rank.
    """
    scale = (down.norm() / up.norm().clamp_min(1e-30)).sqrt()
    return Factors((up * scale).float().cpu(), (down / scale.clamp_min(1e-30)).float().cpu(), float(down.shape[0]))


def shrink_patch(patch: ForgetPatch, rank: int, tolerance: float = ShrinkSettings.tolerance) -> ShrunkPatch:
    """Reduces every layer of a patch to at most the given rank. The parts of patches side by side are merged into one.

    Parameters
    ----------
    patch
        The patch, which stays as it is.
    rank
        Largest rank, from 1.
    tolerance
        Share of a layer's energy |dW|^2 that a rank below `rank` may discard, 0..1.

    Raises
    ------
    ForgetError
        On a rank below 1.
    """
    if rank < 1:
        raise ForgetError(f"Expected a rank of at least 1, got {rank}. Choose the LoRA rank to keep.")
    factors, residuals, discarded, total = {}, {}, 0.0, 0.0
    for name, f in patch.factors.items():
        factors[name], residuals[name] = reduce_rank(f, rank, tolerance)
        energy = float((f.delta().double() ** 2).sum())
        discarded, total = discarded + residuals[name] * energy, total + energy
    residual = discarded / total if total > 0 else 0.0
    settings = {**patch.settings, "shrunk_to": rank}
    figures = {**patch.figures, "shrink_residual": float(f"{residual:.6g}")}
    return ShrunkPatch(ForgetPatch(factors, patch.concepts, patch.base, settings, figures), residuals, residual)
