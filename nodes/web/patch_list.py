"""Lists the patches in models/loras/forget_me_not for the page's browser of patches."""

from __future__ import annotations

import functools
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...fmn_core.errors import ForgetError, plain_text
from ...fmn_core.patch.base_file import read_base
from ...fmn_core.patch.file import load_metadata
from ...fmn_core.patch.patch import ForgetPatch, base_difference
from .. import host
from ..adapter import connected
from ..ui import reports
from ..ui.preview_picture import PREFIX

# Most characters of a text and of a picture (a data URI) that are shown, since a stranger's file may hold anything.
LONGEST_TEXT, LARGEST_PREVIEW = 300, 200_000
# What the page calls the loader of the miniature, which has no inputs.
MINIATURE = "miniature"
_MINIATURE_FILE = host.MINIATURE / "weights" / "mini_sd.safetensors"
FIGURES = ("held_out_missed", "held_out_drift", "preserve_drift", "shrink_residual")


def list_patches(workflow: str, node: str, loader: str = "", file: str = "") -> list[dict[str, Any]]:
    """Describes every patch file.

    Parameters
    ----------
    workflow, node
        Ids of the workflow and of the node whose MODEL the patches are compared with.
    loader
        Where that MODEL is loaded: an input of the host's loaders (host.model_file), or MINIATURE; empty if not known.
    file
        The value of this input.

    Returns
    -------
    For each file its name, its metadata as short texts, or an `error`, and as `mismatch` why the patch does not fit the
    node's MODEL; empty where it fits, or the MODEL is not known.
    """
    base = _base(connected.base(workflow, node), loader, file)
    entries = []
    for name in host.patch_files():
        try:
            path = host.patch_path(name)
            entry, patch_base = _entry(path, host.file_version(path))
        except (ForgetError, OSError, ValueError, ArithmeticError, LookupError, TypeError) as error:
            # A file that is gone, a broken link or unforeseen content must not hide the other files.
            entry, patch_base = {"error": plain_text(error, LONGEST_TEXT) or type(error).__name__}, {}
        difference = base_difference(patch_base, base) if base and "shapes" in patch_base else ""
        entries.append({"name": name, **entry, "mismatch": plain_text(difference, LONGEST_TEXT)})
    return entries


def _base(ran: dict[str, Any], loader: str, file: str) -> dict[str, Any]:
    """The fingerprint of a node's MODEL: that with which it `ran`, unless the loader's file has other shapes by now."""
    path = _MINIATURE_FILE if loader == MINIATURE else host.model_file(loader, file)
    try:
        named = {} if path is None else _file_base(path, host.file_version(path))
    except OSError:
        named = {}
    return named if named and ran.get("shapes") != named["shapes"] else ran


@functools.lru_cache(maxsize=64)
def _file_base(path: Path, version: str) -> dict[str, Any]:
    """The fingerprint of a file, without norms; cached until the file's version changes."""
    return read_base(path)


@functools.lru_cache(maxsize=1024)
def _entry(path: Path, version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describes a file, and returns the fingerprint of its base; cached until the file's version changes."""
    status = path.stat()
    date = datetime.fromtimestamp(status.st_mtime, timezone.utc).isoformat(timespec="minutes")
    entry = {"date": date, "bytes": status.st_size}
    try:
        patch = load_metadata(path)
    except ForgetError as error:
        return entry | {"error": plain_text(error, LONGEST_TEXT)}, {}
    return entry | _metadata(patch), patch.base


def _metadata(patch: ForgetPatch) -> dict[str, Any]:
    preview = patch.about.get("preview", "")
    figures = {k: patch.figures[k] for k in FIGURES if isinstance(patch.figures.get(k), (int, float))}
    return {
        "forgets": plain_text(reports.forgotten(patch), LONGEST_TEXT),
        "base": plain_text(patch.base.get("architecture", "unknown"), LONGEST_TEXT),
        "method": plain_text(patch.settings.get("method", "unknown"), LONGEST_TEXT),
        "figures": figures,
        "preview": preview if preview.startswith(PREFIX) and len(preview) <= LARGEST_PREVIEW else "",
        **{k: plain_text(v, LONGEST_TEXT) for k, v in patch.about.items() if k != "preview"},
    }
