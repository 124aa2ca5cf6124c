"""Checks the names of new patch and embedding files, and writes the files."""

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

SAVED_EVENT = "forget_me_not.saved"
_RESERVED = re.compile(r'[<>:"/\\|?*]')
# Windows opens the device for such a name with any ending, and reads superscript digits as digits.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{d}{i}" for d in ("com", "lpt") for i in "0123456789¹²³"),
}
# Most file systems allow 255 bytes, and the ending, a number and a temporary name must fit too.
_MOST_BYTES = 200


def check_file_name(name: str) -> str:
    """Returns a file name without the ending `.safetensors`; empty for an empty name.

    Raises
    ------
    ForgetError
        The name holds a folder, an invisible or a reserved character, is the name of a device, or is too long.
    """
    stem = name.strip().removesuffix(".safetensors")
    if not stem:
        return ""
    is_device = stem.split(".")[0].strip().lower() in _DEVICES
    if _RESERVED.search(stem) or stem.startswith(".") or stem.endswith((".", " ")) or is_device:
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
    """Saves a patch as NAME.safetensors among the host's LoRAs and tells every page; see save_under_free_name."""
    path = save_under_free_name(host.patch_root(), stem, patch_bytes(patch, dtype, embedding_keys))
    host.send_event(SAVED_EVENT, {"name": f"{host.PATCH_FOLDER}/{path.name}"}, everyone=True)
    return path


def save_embedding_file(embedding: Embedding, stem: str) -> Path:
    """Saves an embedding as NAME.safetensors in the host's embeddings folder; see save_under_free_name."""
    return save_under_free_name(host.embedding_root(), stem, embedding_bytes(embedding, stem + SUFFIX))


def save_under_free_name(folder: Path, stem: str, data: bytes) -> Path:
    """Writes NAME.safetensors, or NAME_00002_.safetensors and so on where other files have these names.

    Returns
    -------
    The path of the new file, or of an existing one with the very same content, which is not written again.

    Raises
    ------
    ForgetError
        The disk refused. No partial file is left.
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
    host.clear_file_lists()
    return path
