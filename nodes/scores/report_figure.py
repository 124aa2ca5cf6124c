"""The figure of Forget Report: panels that flow from left to right and down under a title."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from ..ui import pictures
from ..ui.text_drawing import QUIET, paragraph, table
from . import score_table

_MARGIN, _GAP, _BETWEEN_PICTURES = 16, 24, 4
_SIDE, _LABEL, _HEADING, _PER_ROW = 256, 52, 80, 8
# Panels stand beside each other as far as this; the title is not squeezed below the other.
_FLOW, _NARROWEST = 1040, 480
_PLOT = (508, 300)


def figure(title: str, facts: str, panels: list[Image.Image]) -> Image.Image:
    """All panels, none of them scaled, under a title and a line of facts."""
    side_by_side = sum(p.width for p in panels) + _GAP * (len(panels) - 1)
    width = max(_NARROWEST, min(_FLOW, side_by_side), *(p.width for p in panels))
    head = _stacked([paragraph(title, width, 20), paragraph(facts, width, 14, QUIET)], 4)
    shelves = [_beside(shelf) for shelf in _shelves(panels, width)]
    page = _stacked([head, *shelves], _GAP)
    framed = Image.new("RGB", (width + 2 * _MARGIN, page.height + 2 * _MARGIN), "white")
    framed.paste(page, (_MARGIN, _MARGIN))
    return framed


def picture_panel(heading: str, rows: dict[str, torch.Tensor]) -> Image.Image:
    """Rows of pictures (N, H, W, 3) by label, eight beside each other, the longer side of each as in every report."""
    count = max(len(images) for images in rows.values())
    lines = [
        _beside(
            [paragraph(label, _LABEL - _BETWEEN_PICTURES), *map(_small, images[start : start + _PER_ROW])],
            _BETWEEN_PICTURES,
        )
        for start in range(0, count, _PER_ROW)
        for label, images in rows.items()
        if start < len(images)
    ]
    return _headed(heading, _stacked(lines, _BETWEEN_PICTURES))


def score_panel(scores: list[dict[str, Any]]) -> Image.Image:
    """The table of checked scores, see score_table."""
    return _headed("scores", table(score_table.HEADS, score_table.rows(scores), _FLOW))


def training_panel(figures: dict[str, Any]) -> Image.Image | None:
    """Curves of a training by gradient: loss with attention mass, and drift. None where the figures hold none."""
    curves = [curve for curve in (_loss_curves(figures), _drift_curve(figures)) if curve is not None]
    return _beside(curves) if curves else None


def _loss_curves(figures: dict[str, Any]) -> Image.Image | None:
    series = {"loss": _numbers(figures.get("losses")), "attention mass": _numbers(figures.get("mass"))}
    shown = {name: values for name, values in series.items() if values}
    total = max(map(len, series.values()))
    heading = f"training, {total} steps: {' and '.join(shown)}"
    return _headed(heading, pictures.curves(shown, total, "", _PLOT)) if shown else None


def _drift_curve(figures: dict[str, Any]) -> Image.Image | None:
    found = figures.get("drift")
    pairs = [pair for pair in found if len(_numbers(pair)) == 2] if isinstance(found, list) else []
    if not pairs:
        return None
    steps, values = zip(*pairs)
    heading = f"training, {steps[-1]} steps: drift of the predictions for preserve prompts"
    return _headed(heading, pictures.curves({"drift": list(values)}, steps[-1], "", _PLOT, steps))


def _numbers(values: Any) -> list[float]:
    """A list of numbers that can be drawn; empty where a stranger's file holds anything else."""
    usable = isinstance(values, list) and all(isinstance(v, (int, float)) and abs(v) < 1e30 for v in values)
    return values if usable else []


def _small(image: torch.Tensor) -> Image.Image:
    """(H, W, 3) in 0..1, its longer side scaled to _SIDE."""
    picture = Image.fromarray((image.nan_to_num().clamp(0, 1) * 255).round().byte().numpy())
    longer = max(picture.size)
    size = (max(1, _SIDE * picture.width // longer), max(1, _SIDE * picture.height // longer))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _headed(heading: str, panel: Image.Image) -> Image.Image:
    return _stacked([paragraph(heading, max(_HEADING, panel.width), 14, QUIET), panel], 4)


def _shelves(panels: list[Image.Image], width: int) -> list[list[Image.Image]]:
    shelves: list[list[Image.Image]] = []
    for panel in panels:
        if shelves and sum(p.width + _GAP for p in shelves[-1]) + panel.width <= width:
            shelves[-1].append(panel)
        else:
            shelves.append([panel])
    return shelves


def _beside(parts: list[Image.Image], gap: int = _GAP) -> Image.Image:
    joined = Image.new(
        "RGB", (sum(p.width for p in parts) + gap * (len(parts) - 1), max(p.height for p in parts)), "white"
    )
    for i, part in enumerate(parts):
        joined.paste(part, (sum(p.width + gap for p in parts[:i]), 0))
    return joined


def _stacked(parts: list[Image.Image], gap: int) -> Image.Image:
    joined = Image.new(
        "RGB", (max(p.width for p in parts), sum(p.height for p in parts) + gap * (len(parts) - 1)), "white"
    )
    for i, part in enumerate(parts):
        joined.paste(part, (0, sum(p.height + gap for p in parts[:i])))
    return joined
