"""Text in pictures: paragraphs and tables that keep within a width, in the one typeface that Pillow carries."""

from __future__ import annotations

import bisect
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

INK, QUIET, GRID = (40, 40, 44), (110, 110, 116), (225, 225, 228)
_SPACE, _SIZE = 20, 14
# Nobody reads more of one cell in a picture.
_CELL_LINES = 12


@lru_cache
def font(size: int) -> Any:
    return ImageFont.load_default(size)


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """A text as at most `most` lines of at most `width` pixels; an ellipsis stands for what does not fit."""
    left, lines = " ".join(text.split()), []
    while left and len(lines) < most:
        count = _fitting(left, size, width)
        at_a_space = left.rfind(" ", 0, count + 1) if count < len(left) else -1
        count = at_a_space if at_a_space > 0 else count
        lines.append(left[:count])
        left = left[count:].lstrip()
    if left:
        lines[-1] = _with_ellipsis(lines[-1], size, width)
    return lines


def _fitting(text: str, size: int, width: int) -> int:
    """How many characters, 1 at least, fit into `width`; a character is taken to be a pixel wide or more."""
    counts = range(1, min(len(text), width) + 1)
    return max(1, bisect.bisect_right(counts, width, key=lambda n: font(size).getlength(text[:n])))


def _with_ellipsis(line: str, size: int, width: int) -> str:
    while line and font(size).getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def paragraph(text: str, width: int, size: int = _SIZE, colour: tuple = INK, most: int = 3) -> Image.Image:
    """A text on white, `width` pixels wide, as high as its lines."""
    lines, height = wrapped(text, size, width, most), round(size * 1.4)
    picture = Image.new("RGB", (width, max(1, len(lines) * height)), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        draw.text((0, i * height), line, fill=colour, font=font(size))
    return picture


def table(heads: list[str], rows: list[list[str]], width: int) -> Image.Image:
    """A table of at most `width` pixels: the first column takes up to 40 % of it, the last what the others leave.

    Columns without any text are left out.
    """
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    cells = [[line[i] for i in used] for line in (heads, *rows)]
    widths = _column_widths(cells, width)
    lines = [[paragraph(t, w, most=_CELL_LINES) for t, w in zip(line, widths)] for line in cells]
    heights = [max(cell.height for cell in line) + 8 for line in lines]
    picture = Image.new("RGB", (sum(widths) + _SPACE * (len(widths) - 1), sum(heights)), "white")
    draw = ImageDraw.Draw(picture)
    for k, (line, height) in enumerate(zip(lines, heights)):
        top = sum(heights[:k])
        for i, cell in enumerate(line):
            picture.paste(cell, (sum(widths[:i]) + _SPACE * i, top + 3))
        draw.line((0, top + height - 1, picture.width, top + height - 1), fill=QUIET if k == 0 else GRID)
    return picture


def _column_widths(cells: list[list[str]], width: int) -> list[int]:
    wanted = [max(int(font(_SIZE).getlength(" ".join(t.split()))) + 2 for t in column) for column in zip(*cells)]
    wanted[0] = min(wanted[0], round(0.4 * width))
    if len(wanted) > 1:
        wanted[-1] = min(wanted[-1], width - sum(wanted[:-1]) - _SPACE * (len(wanted) - 1))
    return wanted
