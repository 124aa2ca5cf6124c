"""Scores as they come on a wire of the type FORGET_SCORES, and as rows of a table."""

from __future__ import annotations

from typing import Any

from ...fmn_core.errors import ForgetError

HEADS = ["score", "value", "95 % interval", "note"]


def check_scores(scores: Any) -> list[dict[str, Any]]:
    """The scores as plain numbers and text: score, value, low, high, note; low and high may be None.

    Raises ForgetError on anything that is not a list of named numbers.
    """
    try:
        return [_checked(row) for row in scores or []]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ForgetError(
            f"Expected scores with a name and a number each, got {str(scores)[:80]!r}. Connect the output scores of a score node."
        ) from error


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    low, high = (None if row.get(k) is None else float(row[k]) for k in ("low", "high"))
    note = str(row.get("note") or "")
    return {"score": str(row["score"]), "value": float(row["value"]), "low": low, "high": high, "note": note}


def rows(scores: list[dict[str, Any]]) -> list[list[str]]:
    """One row of texts for each score, in the order of HEADS."""
    return [[s["score"], f"{s['value']:.4g}", _interval(s["low"], s["high"]), s["note"]] for s in scores]


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
