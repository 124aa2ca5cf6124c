"""A cache on disk for pictures and figures of the untouched model, shared by processes and later runs."""

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
    """The SHA-256 of files one after another, read piece by piece."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                found.update(piece)
    return found.hexdigest()


class BaselineCache:
    """The cache's folder. `about`: what all entries depend on; `in_memory`: how many batches of pictures stay in memory."""

    def __init__(self, folder: Path, about: list[Any], in_memory: int = 8) -> None:
        self.folder, self.about, self.in_memory = folder, about, in_memory
        self._recent: OrderedDict[str, torch.Tensor] = OrderedDict()

    def images(self, about: list[Any], make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor that `make` returns, computed once for each value of `about`."""
        key = self._key("pictures", about)
        if key not in self._recent:
            path = self.folder / f"{key}.safetensors"
            if not path.exists():
                write_whole(save({"images": make().contiguous()}), path)
            self._recent[key] = load_file(path)["images"]
            while len(self._recent) > self.in_memory:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def figures(self, name: str, about: list[Any], make: Callable[[], Any]) -> Any:
        """The JSON value that `make` returns, computed once for each value of `about`."""
        path = self.folder / f"{self._key(name, about)}.json"
        if not path.exists():
            write_whole(json.dumps(make()).encode(), path)
        return json.loads(path.read_text())

    def _key(self, name: str, about: list[Any]) -> str:
        text = json.dumps([*self.about, name, about])
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
