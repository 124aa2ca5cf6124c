"""Figures of a patch as its file holds them."""

from __future__ import annotations

from typing import Any


def rounded(value: Any) -> Any:
    """Figures to six significant digits, for a file that reads well."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
