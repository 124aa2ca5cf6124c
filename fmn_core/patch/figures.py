"""Rounding of the figures in a patch's metadata."""

from __future__ import annotations

from typing import Any


def rounded(value: Any) -> Any:
    """Rounds a float, or every float in a dict, to six significant digits; other types are returned unchanged."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
