"""Paragraphs and tables drawn as pictures of a given width, in the typeface that Pillow carries."""

from __future__ import annotations

import bisect
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

INK, QUIET, GRID = (40, 40, 44), (110, 110, 116), (225, 225, 228)
# Pixels between two columns, and the height of the type.
_SPACE, _SIZE = 20, 14
# Longer cells would push the rest of the table out of sight.
_CELL_LINES = 12


@lru_cache
def font(size: int) -> Any:
    """Pillow's own typeface, `size` pixels high."""
    return ImageFont.load_default(size)


def wrap_text(text: str, size: int, width: int, max_lines: int) -> list[str]:
    """Breaks a text into at most `max_lines` lines of at most `width` pixels; an ellipsis marks text that does not fit."""
    rest, lines = " ".join(text.split()), []
    while rest and len(lines) < max_lines:
        count = _fitting_count(rest, size, width)
        last_space = rest.rfind(" ", 0, count + 1) if count < len(rest) else -1
        count = last_space if last_space > 0 else count
        lines.append(rest[:count])
        rest = rest[count:].lstrip()
    if rest:
        lines[-1] = _with_ellipsis(lines[-1], size, width)
    return lines


def _fitting_count(text: str, size: int, width: int) -> int:
    """Number of characters, at least 1, that fit into `width` pixels; assumes that a character is at least a pixel wide."""
    counts = range(1, min(len(text), width) + 1)
    return max(1, bisect.bisect_right(counts, width, key=lambda n: font(size).getlength(text[:n])))


def _with_ellipsis(line: str, size: int, width: int) -> str:
    while line and font(size).getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def paragraph(text: str, width: int, size: int = _SIZE, colour: tuple = INK, max_lines: int = 3) -> Image.Image:
    """Draws a text on white, `width` pixels wide and as high as its lines."""
    lines, height = wrap_text(text, size, width, max_lines), round(size * 1.4)
    picture = Image.new("RGB", (width, max(1, len(lines) * height)), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        draw.text((0, i * height), line, fill=colour, font=font(size))
    return picture


def table(heads: list[str], rows: list[list[str]], width: int) -> Image.Image:
    """Draws a table at most `width` pixels wide; leaves out columns without text.

    The first column takes up to 40 % of the width, the last column the space that the others leave.
    """
    columns = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    texts = [[row[i] for i in columns] for row in (heads, *rows)]
    widths = _column_widths(texts, width)
    cells = [[paragraph(text, w, max_lines=_CELL_LINES) for text, w in zip(row, widths)] for row in texts]
    heights = [max(cell.height for cell in row) + 8 for row in cells]
    picture = Image.new("RGB", (sum(widths) + _SPACE * (len(widths) - 1), sum(heights)), "white")
    draw = ImageDraw.Draw(picture)
    for k, (row, height) in enumerate(zip(cells, heights)):
        top = sum(heights[:k])
        for i, cell in enumerate(row):
            picture.paste(cell, (sum(widths[:i]) + _SPACE * i, top + 3))
        draw.line((0, top + height - 1, picture.width, top + height - 1), fill=QUIET if k == 0 else GRID)
    return picture


def _column_widths(texts: list[list[str]], width: int) -> list[int]:
    widths = [max(int(font(_SIZE).getlength(" ".join(t.split()))) + 2 for t in column) for column in zip(*texts)]
    widths[0] = min(widths[0], round(0.4 * width))
    if len(widths) > 1:
        widths[-1] = min(widths[-1], width - sum(widths[:-1]) - _SPACE * (len(widths) - 1))
    return widths
