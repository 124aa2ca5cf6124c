"""The patches under models/loras/forget_me_not, as the page's browser shows them."""

from __future__ import annotations

import functools
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..fmn_core.errors import ForgetError
from ..fmn_core.patch import ForgetPatch, base_difference
from ..fmn_core.patch_file import load_metadata
from . import connected, host, reports
from .preview_picture import PREFIX

# A stranger's file may say anything: so much of a text is shown, and so large a picture.
LONGEST_TEXT, LARGEST_PREVIEW = 300, 200_000
FIGURES = ("held_out_missed", "held_out_drift", "preserve_drift", "shrink_residual")


def listed(node: str) -> list[dict[str, Any]]:
    """One entry a file: name, what it says of itself as short texts, and why it does not fit the node's MODEL, if so."""
    base = connected.base(node)
    entries = []
    for name in host.patch_files():
        try:
            path = host.patch_path(name)
            status = path.stat()
            entry, patch_base = _entry(path, status.st_mtime_ns, status.st_size)
        except (ForgetError, OSError) as error:  # gone since it was listed, or a link to nothing
            entry, patch_base = {"error": _short(str(error))}, {}
        why = base_difference(patch_base, base) if base and patch_base else ""
        entries.append({"name": name, **entry, "mismatch": _short(why)})
    return entries


@functools.lru_cache(maxsize=1024)
def _entry(path: Path, changed: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is told of a file, and its base; kept for as long as the file stays what it is."""
    date = datetime.fromtimestamp(changed / 1e9, timezone.utc).isoformat(timespec="minutes")
    entry = {"date": date, "bytes": size}
    try:
        patch = load_metadata(path)
    except ForgetError as error:
        return entry | {"error": _short(str(error))}, {}
    return entry | _said(patch), patch.base


def _said(patch: ForgetPatch) -> dict[str, Any]:
    preview = patch.about.get("preview", "")
    figures = {k: patch.figures[k] for k in FIGURES if isinstance(patch.figures.get(k), (int, float))}
    return {
        "forgets": _short(reports.forgotten(patch)),
        "base": _short(str(patch.base.get("architecture", "unknown"))),
        "method": _short(str(patch.settings.get("method", "unknown"))),
        "figures": figures,
        "preview": preview if preview.startswith(PREFIX) and len(preview) <= LARGEST_PREVIEW else "",
        **{k: _short(v) for k, v in patch.about.items() if k != "preview"},
    }


def _short(text: str) -> str:
    """One line without control characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: 2 * LONGEST_TEXT])
    return line if len(line) <= LONGEST_TEXT else line[:LONGEST_TEXT] + "..."
