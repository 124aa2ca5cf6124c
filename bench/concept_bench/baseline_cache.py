"""Cache on disk for pictures and figures of the untouched model, which processes and later runs share."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from fmn_core.safetensors_file import write_whole
from tools.comfy_host import REPOSITORY

FOLDER = REPOSITORY / "out" / "concept_bench" / "untouched"


def digest_of(*files: Path) -> str:
    """SHA-256 of several files in a row, read in pieces."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()


class BaselineCache:
    """Cache of pictures and figures in a folder.

    Parameters
    ----------
    inputs
        JSON values on which all entries depend.
    in_memory
        Batches of pictures that stay in memory.
    """

    def __init__(self, folder: Path, inputs: list[Any], in_memory: int = 8) -> None:
        self.folder, self.inputs, self.in_memory = folder, inputs, in_memory
        self._recent: OrderedDict[str, torch.Tensor] = OrderedDict()

    def images(self, inputs: list[Any], make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor that `make` returns, computed once for each value of `inputs`."""
        key = self._key("pictures", inputs)
        if key not in self._recent:
            path = self.folder / f"{key}.safetensors"
            if not path.exists():
                write_whole(save({"images": make().contiguous()}), path)
            self._recent[key] = load_file(path)["images"]
            while len(self._recent) > self.in_memory:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def figures(self, name: str, inputs: list[Any], make: Callable[[], Any]) -> Any:
        """The JSON value that `make` returns, computed once for each value of `inputs`."""
        path = self.folder / f"{self._key(name, inputs)}.json"
        if not path.exists():
            write_whole(json.dumps(make()).encode(), path)
        return json.loads(path.read_text())

    def _key(self, name: str, inputs: list[Any]) -> str:
        text = json.dumps([*self.inputs, name, inputs])
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
