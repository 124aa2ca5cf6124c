"""Safetensors files: the same bytes for the same content, on the disk whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

import torch

# What a process that was killed left behind may go; what another one is writing now may not.
_STALE_SECONDS = 3600


def safetensors_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file."""
    from safetensors.torch import save

    return canonical_header(save(tensors, metadata))


def canonical_header(data: bytes) -> bytes:
    """Sorts the metadata in a safetensors header: the writer keeps it in a hash map, so its order varies by run."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def write_whole(data: bytes, path: Path) -> int:
    """Writes a file through a temporary one beside it, in place of what was there; returns its size in bytes."""
    with _temporary(data, path) as temporary:
        os.replace(temporary, path)
    return len(data)


def write_new(data: bytes, path: Path) -> bool:
    """Writes a file whole, or tells with False that there is one of that name already, which stays as it is."""
    with _temporary(data, path) as temporary:
        try:
            # Linking fails where there is a file: two processes cannot both win the name.
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            os.replace(temporary, path)
    return True


@contextlib.contextmanager
def _temporary(data: bytes, path: Path):
    """A file with the data under a hidden name beside `path`, which no loader lists; gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".fmn-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.chmod(temporary, 0o644)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Removes temporary files that a killed process left."""
    for file in folder.glob(".fmn-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                file.unlink()
