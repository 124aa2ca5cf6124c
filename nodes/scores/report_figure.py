"""The figure of Forgetting Report: panels in rows under a title."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from ..ui import pictures
from ..ui.text_drawing import QUIET, paragraph, table
from . import score_table

# All sizes are in pixels.
_MARGIN, _GAP, _PICTURE_GAP = 16, 24, 4
_SIDE, _LABEL_WIDTH, _MIN_HEADING, _PICTURES_PER_ROW = 256, 52, 80, 8
# Widest row of several panels, and smallest width of the figure, which its title needs.
_MAX_WIDTH, _MIN_WIDTH = 1040, 480
_PLOT_SIZE = (508, 300)


def figure(title: str, facts: str, panels: list[Image.Image]) -> Image.Image:
    """Draws the panels in rows, unscaled, under a title and a line of facts."""
    side_by_side = sum(p.width for p in panels) + _GAP * (len(panels) - 1)
    width = max(_MIN_WIDTH, min(_MAX_WIDTH, side_by_side), *(p.width for p in panels))
    header = _join_column([paragraph(title, width, 20), paragraph(facts, width, 14, QUIET)], 4)
    rows = [_join_row(row) for row in _break_rows(panels, width)]
    page = _join_column([header, *rows], _GAP)
    framed = Image.new("RGB", (width + 2 * _MARGIN, page.height + 2 * _MARGIN), "white")
    framed.paste(page, (_MARGIN, _MARGIN))
    return framed


def picture_panel(heading: str, rows: dict[str, torch.Tensor]) -> Image.Image:
    """Draws labelled rows of pictures, at most eight in a row, so that pictures of the same number stand below each other.

    Parameters
    ----------
    rows
        Pictures (N, H, W, 3) in 0..1, by label.
    """
    count = max(len(images) for images in rows.values())
    lines = [
        _join_row(
            [
                paragraph(label, _LABEL_WIDTH - _PICTURE_GAP),
                *map(_scaled_picture, images[start : start + _PICTURES_PER_ROW]),
            ],
            _PICTURE_GAP,
        )
        for start in range(0, count, _PICTURES_PER_ROW)
        for label, images in rows.items()
        if start < len(images)
    ]
    return _with_heading(heading, _join_column(lines, _PICTURE_GAP))


def score_panel(scores: list[dict[str, Any]]) -> Image.Image:
    """Draws a table of scores, which score_table.check_scores has checked."""
    return _with_heading("scores", table(score_table.HEADS, score_table.table_rows(scores), _MAX_WIDTH))


def training_panel(figures: dict[str, Any]) -> Image.Image | None:
    """Draws the loss, the attention mass and the drift of a training by gradient; None if the figures hold none of them."""
    curves = [curve for curve in (_loss_curves(figures), _drift_curve(figures)) if curve is not None]
    return _join_row(curves) if curves else None


def _loss_curves(figures: dict[str, Any]) -> Image.Image | None:
    series = {
        "loss": _drawable_numbers(figures.get("losses")),
        "attention mass": _drawable_numbers(figures.get("mass")),
    }
    curves = {name: values for name, values in series.items() if values}
    total = max(map(len, series.values()))
    heading = f"training, {total} steps: {' and '.join(curves)}"
    return _with_heading(heading, pictures.curves(curves, total, "", _PLOT_SIZE)) if curves else None


def _drift_curve(figures: dict[str, Any]) -> Image.Image | None:
    recorded = figures.get("drift")
    points = [point for point in recorded if len(_drawable_numbers(point)) == 2] if isinstance(recorded, list) else []
    if not points:
        return None
    steps, drifts = zip(*points)
    heading = f"training, {steps[-1]} steps: drift of the predictions for preserve prompts"
    return _with_heading(heading, pictures.curves({"drift": list(drifts)}, steps[-1], "", _PLOT_SIZE, steps))


def _drawable_numbers(values: Any) -> list[float]:
    """Returns a list of numbers unchanged; an empty list for anything else, because the file may come from a stranger."""
    usable = isinstance(values, list) and all(isinstance(v, (int, float)) and abs(v) < 1e30 for v in values)
    return values if usable else []


def _scaled_picture(image: torch.Tensor) -> Image.Image:
    """A picture (H, W, 3) in 0..1 with its longer side scaled to _SIDE pixels."""
    picture = Image.fromarray((image.nan_to_num().clamp(0, 1) * 255).round().byte().numpy())
    longer = max(picture.size)
    size = (max(1, _SIDE * picture.width // longer), max(1, _SIDE * picture.height // longer))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _with_heading(heading: str, panel: Image.Image) -> Image.Image:
    return _join_column([paragraph(heading, max(_MIN_HEADING, panel.width), 14, QUIET), panel], 4)


def _break_rows(panels: list[Image.Image], width: int) -> list[list[Image.Image]]:
    """Panels in rows of at most `width` pixels; a wider panel has a row of its own."""
    rows: list[list[Image.Image]] = []
    for panel in panels:
        if rows and sum(p.width + _GAP for p in rows[-1]) + panel.width <= width:
            rows[-1].append(panel)
        else:
            rows.append([panel])
    return rows


def _join_row(parts: list[Image.Image], gap: int = _GAP) -> Image.Image:
    joined = Image.new(
        "RGB", (sum(p.width for p in parts) + gap * (len(parts) - 1), max(p.height for p in parts)), "white"
    )
    for i, part in enumerate(parts):
        joined.paste(part, (sum(p.width + gap for p in parts[:i]), 0))
    return joined


def _join_column(parts: list[Image.Image], gap: int) -> Image.Image:
    joined = Image.new(
        "RGB", (max(p.width for p in parts), sum(p.height for p in parts) + gap * (len(parts) - 1)), "white"
    )
    for i, part in enumerate(parts):
        joined.paste(part, (0, sum(p.height + gap for p in parts[:i])))
    return joined
