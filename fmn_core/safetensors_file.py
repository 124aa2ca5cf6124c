"""Writing safetensors files: the same content gives the same bytes, and a file is written whole or not at all."""

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

# The header's length in 8 bytes, and the brace that every header begins with.
HEAD_BYTES = 9
_PREFIX, _SUFFIX = ".fmn-", ".tmp"
# A younger temporary file may be one that another process is writing now.
_STALE_SECONDS = 86_400
_NO_SYNC_ERRORS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_BLOCK_BYTES = 1_000_000


def safetensors_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """Serialises tensors and metadata in the safetensors format."""
    from safetensors.torch import save

    return canonical_header(save(tensors, metadata))


def canonical_header(data: bytes) -> bytes:
    """Sorts the metadata in the header of a safetensors file, whose order the safetensors library leaves to a hash map."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def refuse_pickle(name: str, head: bytes, suffixes: tuple[str, ...] = ()) -> None:
    """Refuses a file that is a pickle, because loading a pickle can run code.

    Parameters
    ----------
    name
        The file's name, without its folder.
    head
        The first HEAD_BYTES bytes of the file.
    suffixes
        Suffixes, in lower case, of file names that count as pickles whatever their content.

    Raises
    ------
    ForgetError
        When the name or the first bytes are those of a pickle.
    """
    # The length of a safetensors header can look like the first bytes of a pickle; then a brace follows it.
    pickle_signature = head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05")
    if name.lower().endswith(suffixes) or (pickle_signature and head[8:] != b"{"):
        raise ForgetError(
            f"Expected a safetensors file, got a pickle in {name}, which can run code. It was not opened. "
            "Convert it to safetensors, or choose another file."
        )


def probe_folder(folder: Path) -> None:
    """Checks that a folder can be written to, by writing and removing a file of 1 MB; makes the folder where it is missing.

    Raises
    ------
    OSError
        When the disk refuses.
    """
    with _temporary_file(bytes(_BLOCK_BYTES), folder / "probe"):
        pass


def same_content(path: Path, data: bytes) -> bool:
    """Whether a file exists and holds exactly these bytes. Reads it block by block, up to the first difference."""
    if not path.is_file() or path.stat().st_size != len(data):
        return False
    view, position = memoryview(data), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if block != view[position : position + len(block)]:
                return False
            position += len(block)
    return position == len(data)


def write_whole(data: bytes, path: Path) -> int:
    """Writes a file, or replaces it, through a temporary file beside it; returns its size in bytes."""
    with _temporary_file(data, path) as temporary:
        os.replace(temporary, path)
    _sync_folder(path.parent)
    return len(data)


def write_new(data: bytes, path: Path) -> bool:
    """Writes a new file, and never replaces one.

    Returns
    -------
    False when the name is taken, by a file or by another process that is writing it; nothing is written then.
    """
    with _temporary_file(data, path) as temporary:
        try:
            # Unlike replacing, linking fails where a file exists, so only one of two processes gets the name.
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # The file system has no links.
            if not _move_to_free_name(temporary, path):
                return False
    _sync_folder(path.parent)
    return True


def _move_to_free_name(temporary: str, path: Path) -> bool:
    """Moves a file to a name that is free, under a lock file that one process at a time can hold; False where the name is taken."""
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
def _temporary_file(data: bytes, path: Path):
    """Writes the data to a hidden temporary file beside `path`, which no loader lists, and removes it afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX, suffix=_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())
        os.chmod(temporary, 0o644)
        _remove_stale_files(path.parent, os.stat(temporary).st_mtime)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sync(handle: int) -> None:
    """Waits until a file is on the disk, where the file system supports that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC_ERRORS:
            raise


def _sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system supports that; Windows does not."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_stale_files(folder: Path, now: float) -> None:
    """Removes temporary files that a killed process left. `now` is a time by the file system's clock, which may differ from ours."""
    for file in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if now - file.stat().st_mtime > _STALE_SECONDS:
                file.unlink()
