"""Inputs, outputs, rows and report of the score nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.accuracies import interval
from ..host.node_api import ForgetScoresType, ImageTextType, io
from . import score_table

JUDGE_HELP = "Judges the pictures; from Load Image-Text Model. Compare only scores of the same one."


def optional_inputs() -> list[Any]:
    """Inputs for a label of the node's rows and for the scores of other nodes."""
    return [
        io.String.Input(
            "label",
            default="",
            optional=True,
            tooltip="Written after the score's name, to tell rows apart: before, after, a patch's name.",
        ),
        ForgetScoresType.Input(
            "scores", optional=True, tooltip="Scores of another score node: this node's own are added at the end."
        ),
    ]


def image_text_input(optional: bool = False, tooltip: str = JUDGE_HELP) -> Any:
    """The input for the image-text model that judges the pictures."""
    return ImageTextType.Input("image_text", optional=optional, tooltip=tooltip)


def scores_output() -> Any:
    """The output of all scores in the chain."""
    return ForgetScoresType.Output(
        display_name="scores", tooltip="All scores so far, for the next score node or a report."
    )


def report_output() -> Any:
    """The output of the node's own scores as text."""
    return io.String.Output(display_name="report", tooltip="This node's scores in words.")


def score_row(
    score: str, value: float, samples: Sequence[float] | None = None, note: str = "", label: str = ""
) -> dict[str, Any]:
    """One score as a row on the type FORGET_SCORES.

    Parameters
    ----------
    samples
        Value of each picture or prompt, from which the 95 % interval comes; fewer than two give no interval.
    note
        What the score was measured on, and by which judge.
    label
        The user's label, written after the name of the score.
    """
    low, high = interval(samples) if samples is not None and len(samples) > 1 else (None, None)
    name = f"{score}, {label.strip()}" if label.strip() else score
    return {"score": name, "value": float(value), "low": low, "high": high, "note": note}


def append_rows(scores: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The connected scores followed by new rows; raises ForgetError if the connected input is not a list of scores."""
    return [*score_table.check_scores(scores), *rows]


def scores_report(rows: list[dict[str, Any]]) -> str:
    """The rows as text, one line each."""
    lines = []
    for score, value, interval_text, note in score_table.table_rows(rows):
        line = f"{score}: {value}" + (f" (95 %: {interval_text})" if interval_text else "")
        lines.append(line + (f"; {note}" if note else ""))
    return "\n".join(lines)


def check_image_text(model: Any) -> Any:
    """Returns an image-text model unchanged; raises ForgetError on anything else."""
    if not all(callable(getattr(model, name, None)) for name in ("images", "texts")):
        raise ForgetError(
            f"Expected an image-text model, got {type(model).__name__}. Connect the output of Load Image-Text Model."
        )
    return model
