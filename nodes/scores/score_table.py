"""Checks scores of the type FORGET_SCORES and formats them as rows of a table."""

from __future__ import annotations

from typing import Any

from ...fmn_core.errors import ForgetError

HEADS = ["score", "value", "95 % interval", "note"]


def check_scores(scores: Any) -> list[dict[str, Any]]:
    """Returns the scores as rows of plain numbers and text.

    Parameters
    ----------
    scores
        Rows from score nodes, or None.

    Returns
    -------
    list of dict
        `score` (its name), `value`, `low` and `high` (the 95 % interval, or None) and `note`.

    Raises
    ------
    ForgetError
        On anything that is not a list of named numbers.
    """
    try:
        return [_check_row(row) for row in scores or []]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ForgetError(
            f"Expected scores with a name and a number each, got {str(scores)[:80]!r}. Connect the output scores of a score node."
        ) from error


def _check_row(row: dict[str, Any]) -> dict[str, Any]:
    low, high = (None if row.get(k) is None else float(row[k]) for k in ("low", "high"))
    note = str(row.get("note") or "")
    return {"score": str(row["score"]), "value": float(row["value"]), "low": low, "high": high, "note": note}


def table_rows(scores: list[dict[str, Any]]) -> list[list[str]]:
    """Formats each score as texts in the order of HEADS."""
    return [[s["score"], f"{s['value']:.4g}", _format_interval(s["low"], s["high"]), s["note"]] for s in scores]


def _format_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
