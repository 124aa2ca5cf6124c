"""The file that a node saves its result to.

The folder is checked before the work begins, and a failure to save does not discard the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ...fmn_core.concepts.embedding_file import SUFFIX, Embedding, check_embedding_name
from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.safetensors_file import probe_folder
from .. import host
from ..host import saving


@dataclass(frozen=True)
class SaveResult:
    """The file that a result was saved to, or the reason why saving failed; neither where the user gave no file name."""

    path: Path | None = None
    failure: str = ""

    @property
    def warning(self) -> list[str]:
        """First line of the report where saving failed; empty otherwise."""
        return [f"not saved: {self.failure}"] if self.failure else []


class Destination:
    """A file that a node will save, in a folder that can be written to.

    Parameters
    ----------
    file_name
        Name of the file, with or without `.safetensors`. Empty: no file is saved.
    folder
        Returns the folder of the file. It is called only where there is a file to save.

    Raises
    ------
    ForgetError
        On a file name that is not allowed, and on a folder that is read-only, full, or not a folder.
    """

    def __init__(self, file_name: str, folder: Callable[[], Path]):
        self.stem = saving.check_file_name(file_name)
        if self.stem:
            check_folder(folder())

    def save_patch(self, patch: ForgetPatch, dtype: torch.dtype = torch.float16) -> SaveResult:
        """Saves a patch among the host's LoRAs; it never overwrites another file."""
        return self._save(lambda: saving.save_patch_file(patch, self.stem, dtype))

    def save_embedding(self, embedding: Embedding) -> SaveResult:
        """Saves an embedding in the host's embeddings folder; it never overwrites another file."""
        return self._save(lambda: saving.save_embedding_file(embedding, self.stem))

    def _save(self, save: Callable[[], Path]) -> SaveResult:
        if not self.stem:
            return SaveResult()
        try:
            return SaveResult(save())
        except ForgetError as error:
            host.log.warning("not saved: %s", error)
            return SaveResult(failure=str(error))


def for_patch(file_name: str) -> Destination:
    """The destination of a patch, in models/loras/forget_me_not."""
    return Destination(file_name, host.patch_root)


def for_embedding(file_name: str) -> Destination:
    """The destination of an embedding, in models/embeddings; raises ForgetError on a name that prompts cannot say."""
    destination = Destination(file_name, host.embedding_root)
    if destination.stem:
        check_embedding_name(destination.stem + SUFFIX)
    return destination


def check_folder(folder: Path) -> None:
    """Makes the folder if it is missing; raises ForgetError if no file can be written in it."""
    try:
        probe_folder(folder)
    except OSError as error:
        raise ForgetError(
            f"Expected to save in {folder.parent.name}/{folder.name}, but the disk refused: {error.strerror or error}. "
            "Free some space, or check the folder's permissions, and run again."
        ) from error
