"""Saves a report among the host's outputs: the figure as PNG, what it says as JSON."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...fmn_core.errors import ForgetError
from ...fmn_core.safetensors_file import write_new
from .. import host


def save_report(figure: Image.Image, prefix: str, about: dict[str, Any], report: Callable[[str], str]) -> str:
    """Writes PREFIX_00001_.png and PREFIX_00001_.json under the first number that is free; returns the JSON.

    `about`: goes into the PNG's metadata. `report`: the JSON, given the figure's file name. Raises ForgetError on a prefix outside
    the output folder, and when the disk refuses; nothing is left then.
    """
    data = _png(figure, about)
    try:
        folder, name, first = host.output_file_name(prefix, *figure.size)
        for number in itertools.count(first):
            said = _written(folder / f"{name}_{number:05}_", data, report)
            if said is not None:
                return said
    except ForgetError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ForgetError(
            f"Expected to write {len(data):,} bytes under {prefix!r}, but the disk refused: {why}. "
            "Free some space, check the folder's permissions, or choose another filename_prefix, and run again."
        ) from error
    raise AssertionError("unreachable")


def _written(stem: Path, data: bytes, report: Callable[[str], str]) -> str | None:
    """Both files, or neither: None where one of the names is taken."""
    picture, text = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.json")
    if text.exists() or not write_new(data, picture):
        return None
    try:
        said = report(picture.name)
        if write_new(said.encode(), text):
            return said
    except BaseException:
        picture.unlink(missing_ok=True)
        raise
    picture.unlink()
    return None


def _png(figure: Image.Image, about: dict[str, Any]) -> bytes:
    said, buffer = PngInfo(), io.BytesIO()
    for name, value in about.items():
        said.add_text(name, json.dumps(value))
    figure.save(buffer, "PNG", pnginfo=said, compress_level=4)
    return buffer.getvalue()
