"""Figures of pictures: the share in which the judge sees the right thing, and drift."""

from __future__ import annotations

import torch


def share(seen: list[str], expected: list[str]) -> float:
    """Share of pictures, 0..1, in which the judge sees the expected name."""
    return round(sum(a == b for a, b in zip(seen, expected, strict=True)) / len(expected), 4)


def drift(before: torch.Tensor, after: torch.Tensor) -> float:
    """Mean squared error of pictures in 0..1 with the same prompts and seeds, before and after forgetting."""
    return round(float(((before - after) ** 2).mean()), 6)
