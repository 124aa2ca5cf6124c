"""Where a node saves what it makes: looked at before the work begins, and no reason to lose the work when it has ended."""

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
class Saved:
    """What became of a result: its file, or why there is none; neither where the user wanted none."""

    path: Path | None = None
    failure: str = ""

    @property
    def warning(self) -> list[str]:
        """The report's first line where saving failed, else nothing."""
        return [f"not saved: {self.failure}"] if self.failure else []


class Destination:
    """A file that a node will save, in a folder that can be written to; no file where the name is empty.

    Raises ForgetError on a name that cannot be, and on a folder that is read-only, full, or no folder.
    """

    def __init__(self, file_name: str, folder: Callable[[], Path]):
        self.stem = saving.check_file_name(file_name)
        if self.stem:
            check_folder(folder())

    def save_patch(self, patch: ForgetPatch, dtype: torch.dtype = torch.float16) -> Saved:
        """Saves a patch among the host's LoRAs, see saving.save_under_free_name; where that fails, says why."""
        return self._saved(lambda: saving.save_patch_file(patch, self.stem, dtype))

    def save_embedding(self, embedding: Embedding) -> Saved:
        """Saves an embedding in the host's embeddings folder, see saving.save_under_free_name; where that fails, says why."""
        return self._saved(lambda: saving.save_embedding_file(embedding, self.stem))

    def _saved(self, save: Callable[[], Path]) -> Saved:
        if not self.stem:
            return Saved()
        try:
            return Saved(save())
        except ForgetError as error:
            host.log.warning("not saved: %s", error)
            return Saved(failure=str(error))


def of_patch(file_name: str) -> Destination:
    """Where a node's patch goes: models/loras/forget_me_not."""
    return Destination(file_name, host.patch_root)


def of_embedding(file_name: str) -> Destination:
    """Where a node's embedding goes: models/embeddings, under a name that prompts can say."""
    destination = Destination(file_name, host.embedding_root)
    if destination.stem:
        check_embedding_name(destination.stem + SUFFIX)
    return destination


def check_folder(folder: Path) -> None:
    """Makes a folder where there is none; raises ForgetError where no file can be written in it."""
    try:
        probe_folder(folder)
    except OSError as error:
        raise ForgetError(
            f"Expected to save in {folder.parent.name}/{folder.name}, but the disk refused: {error.strerror or error}. "
            "Free some space, or check the folder's permissions, and run again."
        ) from error
