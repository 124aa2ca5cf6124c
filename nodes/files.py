"""Names of patch files: what is allowed, and where a new one goes."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..fmn_core.embedding_file import SUFFIX, Embedding, embedding_bytes
from ..fmn_core.errors import ForgetError
from ..fmn_core.patch import ForgetPatch
from ..fmn_core.patch_file import patch_bytes
from ..fmn_core.safetensors_file import same_content, write_new
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
