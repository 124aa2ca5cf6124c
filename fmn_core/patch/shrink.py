"""Smaller patches: fewer ranks by SVD, and what that leaves behind."""

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
class Shrunk:
    """A smaller patch and the energy (share of |dW|^2) that was left behind, per layer and in all."""

    patch: ForgetPatch
    residuals: dict[str, float]
    residual: float


def reduced(
    factors: Factors, limit: int, tolerance: float = 0.0, root: torch.Tensor | None = None
) -> tuple[Factors, float]:
    """The best factors of lower rank, alpha = rank, and the share of the energy left behind.

    The smallest rank up to `limit` that leaves at most `tolerance` of |dW|^2 behind, or of E |dW x|^2 where `root` (in, in) is
    the square root of the second moment of inputs x. Kernels count as matrices (out, in * k * k).
    """
    up, down = factors.up.double().flatten(1), factors.down.double().flatten(1) * (factors.alpha / factors.rank)
    basis, rest = torch.linalg.qr(up)
    core = rest @ down
    u, s, _ = torch.linalg.svd(core if root is None else core @ root, full_matrices=False)
    rank = smallest_rank(s, tolerance, limit)
    energy = s**2
    residual = float(energy[rank:].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    new_up, new_down = basis @ u[:, :rank], u[:, :rank].T @ core
    found = balanced(new_up, new_down)
    shaped = found.up.reshape(*new_up.shape, *factors.up.shape[2:]), found.down.reshape(rank, *factors.down.shape[1:])
    return Factors(*shaped, float(rank)), residual


def balanced(up: torch.Tensor, down: torch.Tensor) -> Factors:
    """Factors of equal norm, so that both survive half precision, on the CPU, wherever they were solved; alpha = rank."""
    scale = (down.norm() / up.norm().clamp_min(1e-30)).sqrt()
    return Factors((up * scale).float().cpu(), (down / scale.clamp_min(1e-30)).float().cpu(), float(down.shape[0]))


def shrink_patch(patch: ForgetPatch, rank: int, tolerance: float = ShrinkSettings.tolerance) -> Shrunk:
    """A patch of at most `rank` in every layer; what else is known of it stays. Patches side by side become one.

    `tolerance` (0..1): share of a layer's energy that may be left behind where a lower rank does. Raises ForgetError on a
    rank below 1.
    """
    if rank < 1:
        raise ForgetError(f"Expected a rank of at least 1, got {rank}. Choose the LoRA rank to keep.")
    factors, residuals, left, total = {}, {}, 0.0, 0.0
    for name, f in patch.factors.items():
        factors[name], residuals[name] = reduced(f, rank, tolerance)
        energy = float((f.delta().double() ** 2).sum())
        left, total = left + residuals[name] * energy, total + energy
    residual = left / total if total > 0 else 0.0
    settings = {**patch.settings, "shrunk_to": rank}
    figures = {**patch.figures, "shrink_residual": float(f"{residual:.6g}")}
    return Shrunk(ForgetPatch(factors, patch.concepts, patch.base, settings, figures), residuals, residual)
