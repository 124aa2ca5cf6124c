"""Safetensors files: the same bytes for the same content, on the disk whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch

from .errors import ForgetError

# The length of a header in 8 bytes, and the brace that every header begins with.
HEAD_BYTES = 9
_PREFIX, _SUFFIX = ".fmn-", ".tmp"
# What a process that was killed left behind may go; what another one is writing now may not.
_STALE_SECONDS = 86_400
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_PIECE = 1_000_000


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


def refuse_pickle(name: str, head: bytes, suffixes: tuple[str, ...] = ()) -> None:
    """Raises ForgetError when a file is a pickle, which can run code when it is loaded.

    Parameters
    ----------
    name
        The file's name, without its folder.
    head
        The first HEAD_BYTES bytes of the file.
    suffixes
        Suffixes of names that count as a pickle whatever the file begins with, in lower case.
    """
    # A safetensors header can start with the same two bytes as a pickle, because they are its length. A brace follows it.
    looks_like_one = head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05")
    if name.lower().endswith(suffixes) or (looks_like_one and head[8:] != b"{"):
        raise ForgetError(
            f"Expected a safetensors file, got a pickle in {name}, which can run code. It was not opened. "
            "Convert it to safetensors, or choose another file."
        )


def probe_folder(folder: Path) -> None:
    """Makes a folder where there is none, and writes and removes a file of 1 MB in it; raises OSError where the disk refuses."""
    with _temporary(bytes(_PIECE), folder / "probe"):
        pass


def same_content(path: Path, data: bytes) -> bool:
    """Whether a file holds exactly these bytes; False where there is no file. Reads no more than it must, in pieces."""
    if not path.is_file() or path.stat().st_size != len(data):
        return False
    view, at = memoryview(data), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            if piece != view[at : at + len(piece)]:
                return False
            at += len(piece)
    return at == len(data)


def write_whole(data: bytes, path: Path) -> int:
    """Writes a file through a temporary one beside it, in place of what was there; returns its size in bytes."""
    with _temporary(data, path) as temporary:
        os.replace(temporary, path)
    _sync_folder(path.parent)
    return len(data)


def write_new(data: bytes, path: Path) -> bool:
    """Writes a file whole, or tells with False that the name is taken: by a file, which stays as it is, or by another process."""
    with _temporary(data, path) as temporary:
        try:
            # Linking fails where there is a file: two processes cannot both win the name.
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if not _moved_to_free_name(temporary, path):
                return False
    _sync_folder(path.parent)
    return True


def _moved_to_free_name(temporary: str, path: Path) -> bool:
    """Moves a file to a name that is free, under a lock that one process at a time can hold; False where the name is taken.

    The lock is a file beside it that only its maker can create, so that the final name never stands for less than the whole file.
    """
    lock = path.parent / f"{_PREFIX}lock-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{_SUFFIX}"
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    try:
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)
    finally:
        lock.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _temporary(data: bytes, path: Path):
    """A file with the data on the disk, under a hidden name beside `path`, which no loader lists; gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX, suffix=_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            _sync(f.fileno())
        os.chmod(temporary, 0o644)
        _sweep(path.parent, os.stat(temporary).st_mtime)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sync(handle: int) -> None:
    """Waits until a file is on the disk, where the file system can tell."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _sync_folder(folder: Path) -> None:
    """Waits until a folder's names are on the disk, where the system can: Windows opens no folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(folder: Path, now: float) -> None:
    """Removes temporary files that a killed process left; `now` by the clock of the folder's file system, as servers' clocks differ."""
    for file in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if now - file.stat().st_mtime > _STALE_SECONDS:
                file.unlink()
