"""What the score nodes share: rows on a wire of the type FORGET_SCORES, their inputs, outputs and report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.accuracies import interval
from ..host.node_api import ForgetScoresType, ImageTextType, io
from . import score_table

JUDGE_HELP = "Judges the pictures; from Load Image-Text Model. Compare only scores of the same one."


def optional_inputs() -> list[Any]:
    """A label for this node's rows, and the scores that came before."""
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


def image_text(optional: bool = False, tooltip: str = JUDGE_HELP) -> Any:
    """The image-text model that judges the pictures."""
    return ImageTextType.Input("image_text", optional=optional, tooltip=tooltip)


def scores_output() -> Any:
    return ForgetScoresType.Output(
        display_name="scores", tooltip="All scores so far, for the next score node or a report."
    )


def report_output() -> Any:
    return io.String.Output(display_name="report", tooltip="This node's scores in words.")


def row(
    score: str, value: float, values: Sequence[float] | None = None, note: str = "", label: str = ""
) -> dict[str, Any]:
    """One score; `values`, one for each picture or prompt, give its 95 % interval."""
    low, high = interval(values) if values is not None and len(values) > 1 else (None, None)
    name = f"{score}, {label.strip()}" if label.strip() else score
    return {"score": name, "value": float(value), "low": low, "high": high, "note": note}


def longer(scores: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores that came before and these; raises ForgetError where what came is no list of scores."""
    return [*score_table.check_scores(scores), *rows]


def report(rows: list[dict[str, Any]]) -> str:
    """A line for each row."""
    lines = []
    for score, value, between, note in score_table.rows(rows):
        lines.append(f"{score}: {value}" + (f" (95 %: {between})" if between else "") + (f"; {note}" if note else ""))
    return "\n".join(lines)


def lines_of(text: str) -> list[str]:
    """The lines of a text box that say something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def checked_model(model: Any) -> Any:
    """An image-text model; raises ForgetError on anything else."""
    if not all(callable(getattr(model, name, None)) for name in ("images", "texts")):
        raise ForgetError(
            f"Expected an image-text model, got {type(model).__name__}. Connect the output of Load Image-Text Model."
        )
    return model
