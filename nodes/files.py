"""Names of patch files: what is allowed, and where a new one goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..fmn_core.errors import ForgetError
from ..fmn_core.patch import ForgetPatch, save_patch
from . import host

_RESERVED = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}


def check_file_name(name: str) -> str:
    """The name without `.safetensors`; raises ForgetError on path parts and characters some system reserves."""
    stem = name.strip().removesuffix(".safetensors")
    if not stem:
        return ""
    if _RESERVED.search(stem) or stem.startswith(".") or stem.endswith((".", " ")) or stem.lower() in _DEVICES:
        raise ForgetError(
            f'Expected a plain file name without folders or any of < > : " / \\ | ? *, got {name!r}. Choose another name.'
        )
    if len(stem) > 200:
        raise ForgetError(f"Expected a file name of at most 200 characters, got {len(stem)}. Choose a shorter name.")
    return stem


def save_under_free_name(patch: ForgetPatch, stem: str) -> Path:
    """Saves a patch as NAME.safetensors among the host's LoRAs, see save_free."""
    return save_free(host.patch_root(), stem, lambda draft: save_patch(patch, draft))


def save_free(folder: Path, stem: str, save: Callable[[Path], Any]) -> Path:
    """Saves NAME.safetensors, or NAME_00002_.safetensors and so on where that is taken by another file.

    A file with the very same content is kept, not written again. `save` writes to the path that it is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{stem}.draft.safetensors"
    try:
        save(draft)
        number, path = 1, folder / f"{stem}.safetensors"
        while path.exists() and path.read_bytes() != draft.read_bytes():
            number += 1
            path = folder / f"{stem}_{number:05}_.safetensors"
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    host.forget_file_lists()
    return path
