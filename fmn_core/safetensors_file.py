"""Writing safetensors files: the same bytes for the same content, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch


def write_safetensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> int:
    """Writes to a temporary file beside `path` and moves it into place; returns its size in bytes."""
    from safetensors.torch import save

    data = canonical_header(save(tensors, metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(data)


def canonical_header(data: bytes) -> bytes:
    """Sorts the metadata in a safetensors header: the writer keeps it in a hash map, so its order varies by run."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
