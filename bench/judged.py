"""Shares of right pictures, from the judge's answers, and drift of pictures."""

from __future__ import annotations

import torch


def share(seen: list[str], wanted: list[str]) -> float:
    """Share of pictures in which the judge sees what was asked for."""
    return round(sum(a == b for a, b in zip(seen, wanted, strict=True)) / len(wanted), 4)


def drift(before: torch.Tensor, after: torch.Tensor) -> float:
    """Mean squared error of pictures in 0..1, same prompts and seeds."""
    return round(float(((before - after) ** 2).mean()), 6)
