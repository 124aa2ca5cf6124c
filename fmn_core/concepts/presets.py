"""Presets: JSON files with lists of concepts, which users can edit and add."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ForgetError, plain_text
from .concept import Concept, concept_from_text
from .templates import KINDS

SHIPPED = Path(__file__).resolve().parent / "data" / "presets"
SUFFIX = ".json"
MAX_BYTES = 1_000_000
_FILE_FIELDS = ("description", "concepts")
_CONCEPT_FIELDS = ("phrases", "kind", "templates", "end_token")
_PATH_PARTS = re.compile(r"[/\\:\x00-\x1f]|^\.")


@dataclass
class Preset:
    """A named list of concepts with a one-sentence description."""

    name: str
    description: str
    concepts: list[Concept]

    def listing(self) -> str:
        """Lines for the user: name and description, then kind and phrases of each concept."""
        title = f"{self.name}: {self.description}" if self.description else self.name
        return "\n".join(plain_text(line) for line in (title, *(f"- {c.kind}: {c.label()}" for c in self.concepts)))


def list_presets(folders: Sequence[Path]) -> list[str]:
    """The sorted names of the presets (files NAME.json) in several folders, of which some may not exist."""
    files = (file for folder in folders if folder.is_dir() for file in folder.glob(f"*{SUFFIX}"))
    return sorted({file.stem for file in files if file.is_file() and not file.name.startswith(".")})


def find_preset(name: str, folders: Sequence[Path]) -> Path:
    """The path of a preset's file, from the first folder that has it.

    Raises
    ------
    ForgetError
        Where no folder has the file, and on a name that contains parts of a path.
    """
    if not name or _PATH_PARTS.search(name):
        raise ForgetError(f"Expected the plain name of a preset, got {name!r}. Choose one from the list.")
    for folder in folders:
        if (folder / f"{name}{SUFFIX}").is_file():
            return folder / f"{name}{SUFFIX}"
    known = ", ".join(list_presets(folders)) or "none"
    raise ForgetError(
        f"Expected a preset from the list ({known}), got {name!r}. Choose one of these or add {name}{SUFFIX}."
    )


def load_preset(name: str, folders: Sequence[Path]) -> Preset:
    """Reads and checks a preset from the first folder that has it.

    Raises
    ------
    ForgetError
        On an unknown preset, malformed JSON, and fields that are missing, unknown or of another type. It names the file and the concept.

    Notes
    -----
    The file is an object with `concepts` and, optionally, `description`. Each concept is an object with `phrases` (the name, then its
    synonyms) and, optionally, `kind` ("unsafe" by default), `templates` and `end_token`.
    """
    path = find_preset(name, folders)
    content = _check_object(_parse(path), _FILE_FIELDS, path.name)
    description = content.get("description", "")
    if not isinstance(description, str):
        raise _field_error(path.name, "a text as description", description)
    entries = content.get("concepts")
    if not isinstance(entries, list) or not entries:
        raise _field_error(path.name, "a list of at least one concept as concepts", entries)
    concepts = [_read_concept(entry, f"{path.name}, concept {i}") for i, entry in enumerate(entries, 1)]
    return Preset(name, description.strip(), concepts)


def _parse(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise ForgetError(f"Expected a preset of at most {MAX_BYTES // 1000} kB, {path.name} is larger. Split it.")
    try:
        # Some editors put a byte order mark in front.
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ForgetError(f"Expected JSON in the preset {path.name}, got: {reason}. Correct the file.") from error


def _read_concept(entry: Any, source: str) -> Concept:
    """Reads one concept; `source`: the file and the concept's number, for errors."""
    entry = _check_object(entry, _CONCEPT_FIELDS, source)
    phrases, templates = _joined_lines(entry, "phrases", source), _joined_lines(entry, "templates", source)
    kind, end_token = entry.get("kind", "unsafe"), entry.get("end_token", "first")
    if kind not in KINDS:
        raise _field_error(source, f"{', '.join(KINDS)} as kind", kind)
    if not isinstance(end_token, str):
        raise _field_error(source, "a text as end_token", end_token)
    try:
        return concept_from_text(phrases, kind, templates, end_token)
    except ForgetError as error:
        raise ForgetError(f"Preset {source}: {error}") from error


def _check_object(value: Any, fields: tuple[str, ...], source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _field_error(source, f"an object with {', '.join(fields)}", value)
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise _field_error(source, f"only the fields {', '.join(fields)}", unknown[0])
    return value


def _joined_lines(entry: dict[str, Any], name: str, source: str) -> str:
    """A field's list of texts as the text of a text box, one per line."""
    lines = entry.get(name, [])
    if not isinstance(lines, list) or not all(isinstance(v, str) and v.strip() and "\n" not in v for v in lines):
        raise _field_error(source, f"a list of texts, each of one line, as {name}", lines)
    return "\n".join(lines)


def _field_error(source: str, expected: str, value: Any) -> ForgetError:
    shown = "nothing" if value is None else repr(value)
    shown = shown if len(shown) <= 80 else shown[:80] + "..."
    return ForgetError(f"Preset {source}: expected {expected}, got {shown}. Correct the file.")
