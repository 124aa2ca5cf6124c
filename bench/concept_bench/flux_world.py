"""The miniature FLUX for ConceptBench: one MODEL for methods to change, one untouched, and the judge of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.concept_bench.asks import asks_of
from bench.concept_bench.baseline_cache import FOLDER, BaselineCache, digest_of
from bench.concept_bench.tasks import Task
from bench.world import Ask, Pack
from mini_flux.judge import load_judge, look_at
from mini_sd.generate import GUIDANCE, generate
from tools.comfy_host import REPOSITORY

STEPS = 12


class FluxBenchWorld(Pack):
    """The miniature FLUX twice: methods may change `model` in place; base pictures are drawn with `untouched`."""

    setting = {"steps": STEPS, "guidance": GUIDANCE}
    # The miniature's knows no scenes.
    image_text = None

    def __init__(self, folder: Path = FOLDER) -> None:
        super().__init__(lambda host: host.load_miniature_flux())
        with torch.inference_mode():
            self.untouched = self.host.load_miniature_flux()[0]
        self.judge = load_judge()
        files = REPOSITORY / "mini_flux" / "weights" / "mini_flux.safetensors", REPOSITORY / "mini_sd" / "generate.py"
        self.baseline_cache = BaselineCache(folder, [digest_of(*files), torch.__version__])

    def adapter(self) -> Any:
        """The adapter of MODEL and CLIP."""
        return self.node("adapter.transformer").closed_form_model(self.model, self.clip)

    def asks(self, task: Task) -> dict[str, Ask]:
        """The asks of a task, whose prompts name no ground."""
        return asks_of(task)

    def judged(self, task: Task, images: torch.Tensor) -> tuple[list[str], list[str]]:
        """The thing and the style that the judge sees in each picture: of several things the one in the middle, else the first."""
        seen = look_at(self.judge, images)
        return [s.things.get("centre", next(iter(s.things.values()), "")) for s in seen], [s.style for s in seen]

    def sample(self, ask: Ask, model: Any = None) -> torch.Tensor:
        """Pictures of an ask; those of the untouched model are drawn once and rounded to half precision."""
        if model is not None:
            return self._draw(ask, model)
        inputs = [*self.setting.values(), ask.prompts, ask.seeds]
        return self.baseline_cache.images(inputs, lambda: self._draw(ask, self.untouched).half()).float()

    def _draw(self, ask: Ask, model: Any) -> torch.Tensor:
        return generate(model, self.clip, self.vae, ask.prompts, ask.seeds, **self.setting)
