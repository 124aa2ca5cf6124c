"""Pictures and figures of the untouched model: made once, kept on disk for every process and the next run."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench.world import Ask, World
from mini_sd.comfy_host import PACK_NAME, REPOSITORY
from mini_sd.generate import generate

FOLDER = REPOSITORY / "out" / "concept_bench" / "untouched"
_IN_MEMORY = 8  # asks; a picture takes 200 kB


@cache
def _digest_of(*files: Path) -> str:
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


class BenchWorld(World):
    """The miniature twice: `model` for methods to change, in place too, and an untouched one that base pictures are made with."""

    def __init__(self, folder: Path = FOLDER) -> None:
        super().__init__()
        with torch.inference_mode():
            self.untouched = self.host.load_miniature()[0]
        self.folder, self._recent = folder, OrderedDict()
        weights = REPOSITORY / "mini_sd" / "weights" / "mini_sd.safetensors"
        self._about = [_digest_of(weights, REPOSITORY / "mini_sd" / "generate.py"), torch.__version__]

    def core(self, module: str) -> Any:
        """A module of fmn_core as the pack sees it, those that no node has imported too."""
        return importlib.import_module(f"{PACK_NAME}.fmn_core.{module}")

    def sample(self, ask: Ask, model: Any = None, extra: Any = None) -> torch.Tensor:
        """Pictures of an ask; those of the untouched model as half precision keeps them, whether made now or before."""
        if model is not None or extra is not None:
            return super().sample(ask, model if model is not None else self.untouched, extra)
        key = self._key("pictures", [self.steps, self.guidance, ask.prompts, ask.seeds])
        if key not in self._recent:
            path = self.folder / f"{key}.safetensors"
            if not path.exists():
                self._make(ask, path)
            self._recent[key] = load_file(path)["images"].float()
            while len(self._recent) > _IN_MEMORY:
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def figures(self, name: str, about: list[Any], make: Callable[[], Any]) -> Any:
        """What `make` gives, a JSON value, made once for what it is `about`."""
        path = self.folder / f"{self._key(name, about)}.json"
        if not path.exists():
            _write_whole(path, lambda file: file.write_text(json.dumps(make())))
        return json.loads(path.read_text())

    def _key(self, name: str, about: list[Any]) -> str:
        text = json.dumps([*self._about, name, about])
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    def _make(self, ask: Ask, path: Path) -> None:
        setting = {"steps": self.steps, "guidance": self.guidance}
        images = generate(self.untouched, self.clip, self.vae, ask.prompts, ask.seeds, **setting)
        _write_whole(path, lambda file: save_file({"images": images.half().contiguous()}, file))


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Two processes may make the same file: each writes its own and puts it in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        write(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
