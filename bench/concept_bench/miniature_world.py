"""The miniature for ConceptBench: one MODEL for methods to change, one untouched, and the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.concept_bench.asks import SIZES, asks_of
from bench.concept_bench.baseline_cache import FOLDER, BaselineCache, digest_of
from bench.concept_bench.tasks import Task
from bench.world import Ask, World
from mini_sd.generate import generate
from tools.comfy_host import REPOSITORY


class BenchWorld(World):
    """The miniature twice: methods may change `model` in place; base pictures are drawn with `untouched`."""

    # Attacked, with residue and M-Score; a world with a setting is not.
    setting: dict[str, Any] | None = None

    def __init__(self, folder: Path = FOLDER) -> None:
        super().__init__()
        with torch.inference_mode():
            self.untouched = self.host.load_miniature()[0]
        weights = REPOSITORY / "mini_sd" / "weights" / "mini_sd.safetensors"
        self.baseline_cache = BaselineCache(
            folder, [digest_of(weights, REPOSITORY / "mini_sd" / "generate.py"), torch.__version__]
        )

    def asks(self, task: Task) -> dict[str, Ask]:
        """The asks of a task; also sets the sampling steps to those of the task."""
        self.steps = SIZES[task.ask].steps
        return asks_of(task)

    def judged(self, task: Task, images: torch.Tensor) -> tuple[list[str], list[str]]:
        """The concept and the style that the judge sees in each picture, of all that the miniature draws."""
        return self.seen(images)

    def sample(self, ask: Ask, model: Any = None, extra: Any = None) -> torch.Tensor:
        """Pictures of an ask; those of the untouched model are drawn once and rounded to half precision."""
        if model is not None or extra is not None:
            return super().sample(ask, model if model is not None else self.untouched, extra)
        inputs = [self.steps, self.guidance, ask.prompts, ask.seeds]
        return self.baseline_cache.images(inputs, lambda: self._base_pictures(ask).half()).float()

    def _base_pictures(self, ask: Ask) -> torch.Tensor:
        setting = {"steps": self.steps, "guidance": self.guidance}
        return generate(self.untouched, self.clip, self.vae, ask.prompts, ask.seeds, **setting)
