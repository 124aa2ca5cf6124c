"""Presets: lists of concepts in JSON files that users can edit and add to."""

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
    """Named concepts, and what they are about in a sentence."""

    name: str
    description: str
    concepts: list[Concept]

    def listing(self) -> str:
        """What it holds, in lines: its name and description, then kind and phrases of every concept."""
        title = f"{self.name}: {self.description}" if self.description else self.name
        return "\n".join(plain_text(line) for line in (title, *(f"- {c.kind}: {c.label()}" for c in self.concepts)))


def list_presets(folders: Sequence[Path]) -> list[str]:
    """Names of all presets, sorted: files NAME.json in any of the folders, of which some may not exist."""
    files = (file for folder in folders if folder.is_dir() for file in folder.glob(f"*{SUFFIX}"))
    return sorted({file.stem for file in files if file.is_file() and not file.name.startswith(".")})


def find_preset(name: str, folders: Sequence[Path]) -> Path:
    """The file NAME.json in the first folder that has one; raises ForgetError when none has, and on path parts."""
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
    """Reads a preset; where two folders have one of that name, the first folder's.

    The file is an object: `concepts`, a list of objects with `phrases` (first the name, then synonyms) and, if wanted, `kind`
    ("unsafe" by default), `templates` and `end_token`; and, if wanted, `description`. Raises ForgetError, naming the file and
    what is wrong, on an unknown preset, malformed JSON and fields that are missing, unknown or of another type.
    """
    path = find_preset(name, folders)
    content = _object(_parse(path), _FILE_FIELDS, path.name)
    description = content.get("description", "")
    if not isinstance(description, str):
        raise _wrong(path.name, "a text as description", description)
    entries = content.get("concepts")
    if not isinstance(entries, list) or not entries:
        raise _wrong(path.name, "a list of at least one concept as concepts", entries)
    return Preset(
        name, description.strip(), [_concept(e, f"{path.name}, concept {i}") for i, e in enumerate(entries, 1)]
    )


def _parse(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise ForgetError(f"Expected a preset of at most {MAX_BYTES // 1000} kB, {path.name} is larger. Split it.")
    try:
        # Some editors put a byte order mark in front.
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ForgetError(f"Expected JSON in the preset {path.name}, got: {reason}. Correct the file.") from error


def _concept(entry: Any, where: str) -> Concept:
    entry = _object(entry, _CONCEPT_FIELDS, where)
    phrases, templates = _lines(entry, "phrases", where), _lines(entry, "templates", where)
    kind, end_token = entry.get("kind", "unsafe"), entry.get("end_token", "first")
    if kind not in KINDS:
        raise _wrong(where, f"{', '.join(KINDS)} as kind", kind)
    if not isinstance(end_token, str):
        raise _wrong(where, "a text as end_token", end_token)
    try:
        return concept_from_text(phrases, kind, templates, end_token)
    except ForgetError as error:
        raise ForgetError(f"Preset {where}: {error}") from error


def _object(value: Any, fields: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, f"an object with {', '.join(fields)}", value)
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise _wrong(where, f"only the fields {', '.join(fields)}", unknown[0])
    return value


def _lines(entry: dict[str, Any], name: str, where: str) -> str:
    """A list of texts as the lines of a text box."""
    values = entry.get(name, [])
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() and "\n" not in v for v in values):
        raise _wrong(where, f"a list of texts, each of one line, as {name}", values)
    return "\n".join(values)


def _wrong(where: str, expected: str, got: Any) -> ForgetError:
    shown = "nothing" if got is None else repr(got)
    shown = shown if len(shown) <= 80 else shown[:80] + "..."
    return ForgetError(f"Preset {where}: expected {expected}, got {shown}. Correct the file.")
