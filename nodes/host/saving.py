"""Names of patch files: what is allowed, and where a new one goes."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ...fmn_core.concepts.embedding_file import SUFFIX, Embedding, embedding_bytes
from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.file import patch_bytes
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.safetensors_file import same_content, write_new
from .. import host

_RESERVED = re.compile(r'[<>:"/\\|?*]')
# Windows takes a device's name before any ending for the device, and reads the small figures as figures.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{d}{i}" for d in ("com", "lpt") for i in "0123456789¹²³"),
}
# Most file systems take 255 bytes, and the ending, a number and a temporary name must fit too.
_MOST_BYTES = 200


def check_file_name(name: str) -> str:
    """The name without `.safetensors`; raises ForgetError on path parts, names that some system reserves or shows as another, and long ones."""
    stem = name.strip().removesuffix(".safetensors")
    if not stem:
        return ""
    device = stem.split(".")[0].strip().lower() in _DEVICES
    if _RESERVED.search(stem) or stem.startswith(".") or stem.endswith((".", " ")) or device:
        raise ForgetError(
            f'Expected a plain file name without folders or any of < > : " / \\ | ? *, got {name!r}. Choose another name.'
        )
    if not stem.isprintable():
        raise ForgetError(
            f"Expected a file name of visible characters, got {name!r}, which shows as another. Type the name again."
        )
    size = len(stem.encode())
    if size > _MOST_BYTES:
        raise ForgetError(f"Expected a file name of at most {_MOST_BYTES} bytes, got {size}. Choose a shorter name.")
    return stem


def save_patch_file(
    patch: ForgetPatch, stem: str, dtype: torch.dtype = torch.float16, embedding_keys: bool = False
) -> Path:
    """Saves a patch as NAME.safetensors among the host's LoRAs, see save_free."""
    return save_free(host.patch_root(), stem, patch_bytes(patch, dtype, embedding_keys))


def save_embedding_file(embedding: Embedding, stem: str) -> Path:
    """Saves an embedding as NAME.safetensors in the host's embeddings folder, see save_free."""
    return save_free(host.embedding_root(), stem, embedding_bytes(embedding, stem + SUFFIX))


def save_free(folder: Path, stem: str, data: bytes) -> Path:
    """Writes NAME.safetensors, or NAME_00002_.safetensors and so on where that is taken by another file.

    A file with the very same content is kept, not written again. Raises ForgetError when the disk refuses; nothing is left then.
    """
    number, path = 1, folder / f"{stem}{SUFFIX}"
    try:
        while not same_content(path, data) and not write_new(data, path):
            number += 1
            path = folder / f"{stem}_{number:05}_{SUFFIX}"
    except OSError as error:
        raise ForgetError(
            f"Expected to write {len(data):,} bytes to {path.name}, but the disk refused: {error.strerror or error}. "
            "Free some space, or check the folder's permissions, and run again."
        ) from error
    host.forget_file_lists()
    return path
