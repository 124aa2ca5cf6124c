"""Saves a report in the host's output folder: the figure as PNG, its numbers as JSON."""

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
    """Writes PREFIX_00001_.png and PREFIX_00001_.json under the first free number.

    Parameters
    ----------
    prefix
        Path below the output folder, as for the host's Save Image.
    about
        Metadata of the PNG, by name; written as JSON.
    report
        Returns the text of the JSON file, given the name of the figure's file.

    Returns
    -------
    str
        The text of the JSON file.

    Raises
    ------
    ForgetError
        On a prefix outside the output folder, and if the disk refuses; neither file is left then.
    """
    data = _png(figure, about)
    try:
        folder, name, first = host.output_file_name(prefix, *figure.size)
        for number in itertools.count(first):
            text = _write_both(folder / f"{name}_{number:05}_", data, report)
            if text is not None:
                return text
    except ForgetError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ForgetError(
            f"Expected to write {len(data):,} bytes under {prefix!r}, but the disk refused: {reason}. "
            "Free some space, check the folder's permissions, or choose another filename_prefix, and run again."
        ) from error
    raise AssertionError("unreachable")


def _write_both(stem: Path, data: bytes, report: Callable[[str], str]) -> str | None:
    """Writes both files and returns the text of the JSON file, or writes neither and returns None if a name is taken."""
    picture_path, text_path = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.json")
    if text_path.exists() or not write_new(data, picture_path):
        return None
    try:
        text = report(picture_path.name)
        if write_new(text.encode(), text_path):
            return text
    except BaseException:
        picture_path.unlink(missing_ok=True)
        raise
    picture_path.unlink()
    return None


def _png(figure: Image.Image, about: dict[str, Any]) -> bytes:
    metadata, buffer = PngInfo(), io.BytesIO()
    for name, value in about.items():
        metadata.add_text(name, json.dumps(value))
    figure.save(buffer, "PNG", pnginfo=metadata, compress_level=4)
    return buffer.getvalue()
