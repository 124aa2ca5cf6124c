"""Composes labelled pages of pictures for results pages."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw

_CELL, _LABEL, _GAP, _LINE = 128, 22, 6, 14


def to_pil(image: torch.Tensor) -> Image.Image:
    """A picture (H, W, 3) in 0..1 as a PIL image."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy())


def before_after_page(rows: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Image.Image:
    """Page with one row a prompt: pictures before on the left, pictures after with the same seeds on the right."""
    count = max(len(b) for b, _ in rows.values())
    width, height = 2 * count * _CELL + 3 * _GAP * 2, len(rows) * (_CELL + _LABEL) + _LABEL + _GAP
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    right = 2 * _GAP * 2 + count * _CELL
    draw.text((2 * _GAP, 5), "before", fill="black")
    draw.text((right, 5), "after", fill="black")
    for r, (label, (before, after)) in enumerate(rows.items()):
        y = _LABEL + r * (_CELL + _LABEL)
        draw.text((2 * _GAP, y + 4), label, fill=(90, 90, 96))
        for left, images in ((2 * _GAP, before), (right, after)):
            for k, image in enumerate(images):
                page.paste(to_pil(image).resize((_CELL, _CELL)), (left + k * _CELL, y + _LABEL))
    return page


def grid_page(
    images: torch.Tensor,
    rows: list[str],
    columns: list[str],
    cell: int = 64,
    left: int = 120,
    captions: list[tuple[str, str]] | None = None,
) -> Image.Image:
    """Page of pictures (rows * columns, H, W, 3) in row-major order, with labels of rows and columns.

    Parameters
    ----------
    columns
        Labels, which may have several lines.
    cell
        Width and height of a picture on the page, in pixels.
    captions
        A text and its colour below each picture.
    """
    top = _LABEL + _LINE * max(label.count("\n") for label in columns)
    step = cell + (_LINE if captions else 0)
    page = Image.new("RGB", (left + len(columns) * cell, top + len(rows) * step), "white")
    draw = ImageDraw.Draw(page)
    for c, label in enumerate(columns):
        draw.text((left + c * cell + 2, 4), label, fill="black")
    for r, label in enumerate(rows):
        draw.text((4, top + r * step + cell // 2 - 6), label, fill="black")
        for c in range(len(columns)):
            n, x, y = r * len(columns) + c, left + c * cell, top + r * step
            page.paste(to_pil(images[n]).resize((cell, cell)), (x, y))
            if captions:
                draw.text((x + 2, y + cell), captions[n][0], fill=captions[n][1])
    return page
