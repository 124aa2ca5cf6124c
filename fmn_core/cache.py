"""A cache of tensors in a folder, keyed by the content of what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .errors import ForgetError
from .model import ForgetModel, TextModel
from .token_table import row_checksums
from .tokens import EncodedPrompt

log = logging.getLogger("forget-me-not")

MAX_BYTES = 2_000_000_000
PROBE_PROMPT = "a picture of a horse in watercolor style"
_PROBE_LATENT = 16
_OWN_FILE = re.compile(r"fmn-[0-9a-f]{64}\.(safetensors|\w+\.tmp)")

Tensors = dict[str, torch.Tensor]


# --- keys -------------------------------------------------------------------------------------------------------------


def content_key(*parts: Any) -> str:
    """SHA-256, as 64 hexadecimal digits, of tensors, strings, bytes, numbers, None, and nested lists, tuples and dicts of them.

    Every part is written with its kind and length, so that no two different inputs are written alike; lists and tuples
    are one kind, the order of a dict does not count. A tensor counts by its dtype, shape and bytes, not by its device.
    Raises ForgetError on any other type.
    """
    digest = hashlib.sha256()
    _write(digest, parts)
    return digest.hexdigest()


def _write(digest: Any, part: Any) -> None:
    if isinstance(part, torch.Tensor):
        _frame(digest, b"tensor", str(part.dtype).encode())
        _write(digest, list(part.shape))
        data = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        _frame(digest, b"data", data.numpy().data)
    elif isinstance(part, (list, tuple)):
        _frame(digest, b"list", struct.pack("<Q", len(part)))
        for item in part:
            _write(digest, item)
    elif isinstance(part, dict):
        _frame(digest, b"dict", struct.pack("<Q", len(part)))
        for _, item in sorted((content_key(k), (k, v)) for k, v in part.items()):
            _write(digest, item)
    else:
        _frame(digest, *_scalar(part))


def _scalar(part: Any) -> tuple[bytes, bytes]:
    """The kind of a plain value, and its bytes."""
    if part is None:
        return b"none", b""
    if isinstance(part, str):
        return b"str", part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return b"bytes", part
    if isinstance(part, (bool, int)):
        return type(part).__name__.encode(), str(int(part)).encode()
    if isinstance(part, float):
        return b"float", struct.pack("<d", part)
    raise ForgetError(
        f"Expected tensors, strings, numbers, lists or dicts to make a key of, got {type(part).__name__}. Pass its content instead."
    )


def _frame(digest: Any, kind: bytes, data: bytes | memoryview) -> None:
    digest.update(struct.pack("<QQ", len(kind), len(data)) + kind)
    digest.update(data)


def model_key(model: ForgetModel, channels: int = 4) -> str:
    """A content key of what a model computes, so that a LoRA or a fine-tune changes it; the model must be ready for denoise.

    Hashes one denoise call on seeded noise (`channels`, 16, 16) at the middle sigma, values rounded to 3 significant
    digits, with the empty prompt, a fixed prompt, and noise in place of a prompt: a patch may be made so as to leave
    ordinary prompts alone, but not noise. The sigmas and the shapes of the cross-attention keys count too. The same on
    one machine and device; rounding does not make it the same on others.
    """
    sigmas = model.sigmas()
    sigma = sigmas[len(sigmas) // 2]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, channels, _PROBE_LATENT, _PROBE_LATENT, generator=generator) * (1 + sigma**2).sqrt()
    empty, prompt = model.encode(["", PROBE_PROMPT])
    context = torch.randn(prompt.context.shape, generator=generator) * prompt.context.std() + prompt.context.mean()
    prompts = [empty, prompt, EncodedPrompt("", prompt.tokens, context, prompt.pooled)]
    with torch.no_grad():
        x = noise.expand(len(prompts), -1, -1, -1).to(model.device)
        x0 = model.denoise(x, sigma.expand(len(prompts)).to(model.device), prompts)
    keys: list[Any] = [layer.projections["to_k"] for layer in model.cross_attention()]
    return content_key("model", _rounded(x0), sigmas, [list(k.weight.shape) for k in keys])


def text_key(model: TextModel) -> str:
    """A content key of what a model's text encoder computes, so that a LoRA, a fine-tune or another CLIP skip changes it.

    Hashes the context and the pooled embedding of a fixed prompt, rounded to 3 significant digits, and a checksum of every
    row of the token embeddings, because a change of one word's embedding shows in no other prompt.
    """
    [encoded] = model.encode([PROBE_PROMPT])
    pooled = None if encoded.pooled is None else _rounded(encoded.pooled)
    rows = {name: row_checksums(table) for name, table in model.token_embeddings().items()}
    return content_key("text", encoded.tokens, _rounded(encoded.context), pooled, rows)


def _rounded(values: torch.Tensor) -> str:
    numbers = values.detach().float().cpu().flatten().tolist()
    return " ".join(f"{v + 0.0:.3g}" for v in numbers)


# --- the folder -------------------------------------------------------------------------------------------------------


class Cache:
    """Dicts of tensors by key in a folder, at most `max_bytes` of them: the least recently used go first.

    One safetensors file per entry, written beside its place and then moved into it, so that processes can share the
    folder. An entry larger than half the bound is not stored. A file that is damaged, cut short or not this cache's is
    removed and counts as a miss; only files named like this cache's are ever touched. A folder that cannot be read or
    written, or a full disk, is a warning in the log, never an exception.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES):
        self.folder, self.max_bytes = Path(folder), max_bytes

    def get(self, key: str) -> Tensors | None:
        """The tensors of a key, bit for bit as they were put, on the CPU and fit for autograd; None when there are none."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the cache file %s cannot be read: %s", path.name, error)
            return None
        tensors = _decoded(data, key)
        if tensors is None:
            log.warning("the cache file %s is damaged and was removed", path.name)
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            _touch(path)
        return tensors

    def put(self, key: str, tensors: Tensors) -> bool:
        """Stores tensors under a key and tells whether it did."""
        path = self._path(key)
        try:
            data = _encoded(key, _plain(tensors))
            if 2 * len(data) > self.max_bytes:
                return False
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data), path)
            _write_atomically(path, data)
            # another process may have written meanwhile
            self._make_room(len(data), path)
        except (OSError, KeyError) as error:
            log.warning("the cache did not store %s: %s", path.name, error)
            return False
        return True

    def remember(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of a key; where there are none, makes and stores them. Both come as `get` gives them."""
        found = self.get(key)
        if found is None:
            found = _plain(make())
            self.put(key, found)
        return found

    def clear(self) -> int:
        """Removes all entries; returns the bytes freed."""
        return sum(_remove(path) for _, path, _ in self._files())

    def size(self) -> int:
        """Bytes that all entries take."""
        return sum(size for _, _, size in self._files())

    def _path(self, key: str) -> Path:
        return self.folder / f"fmn-{content_key(key)}.safetensors"

    def _files(self) -> list[tuple[int, Path, int]]:
        """(time of last use in ns, path, bytes) of this cache's files, the least recently used first."""
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    # another process may remove it between the listing and the look
                    with contextlib.suppress(FileNotFoundError):
                        if _OWN_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                            status = entry.stat(follow_symlinks=False)
                            found.append((status.st_mtime_ns, Path(entry.path), status.st_size))
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("the cache folder %s cannot be read: %s", self.folder, error)
        return sorted(found)

    def _make_room(self, needed: int, path: Path) -> None:
        """Removes files until `needed` bytes for `path`, which may be there already, fit; raises OSError when they cannot."""
        others = [(other, size) for _, other, size in self._files() if other != path]
        total = sum(size for _, size in others)
        for other, size in others:
            if total + needed <= self.max_bytes:
                return
            total -= size if _remove(other) or not other.exists() else 0
        if total + needed > self.max_bytes:
            raise OSError("files of the cache that are in the way cannot be removed")


def _plain(tensors: Tensors) -> Tensors:
    """Copies on the CPU, contiguous, apart from each other and from any graph, that autograd accepts."""
    with torch.inference_mode(False):
        return {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}


def _encoded(key: str, tensors: Tensors) -> bytes:
    from safetensors.torch import save

    return save(tensors, {"fmn.key": key, "fmn.content": content_key(tensors)})


def _decoded(data: bytes, key: str) -> Tensors | None:
    """The tensors of a file's bytes, or None when they are not those that were stored under the key."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with torch.inference_mode(False):
            tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except torch.OutOfMemoryError:  # a RuntimeError too, but the file is not to blame
        raise
    except (SafetensorError, ValueError, KeyError, RuntimeError):
        return None
    whole = metadata.get("fmn.key") == key and metadata.get("fmn.content") == content_key(tensors)
    return tensors if whole else None


def _write_atomically(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        _touch(temporary)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _touch(path: Path) -> None:
    # the file system's own clock may tick too slowly to order two uses
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _remove(path: Path) -> int:
    """Removes a file; returns the bytes freed, 0 when it is gone already or cannot be removed."""
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    except OSError as error:
        log.warning("the cache file %s cannot be removed: %s", path.name, error)
        return 0
    return size
