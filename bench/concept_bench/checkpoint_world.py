"""The world of a Stable Diffusion checkpoint in one file: MODEL, CLIP and VAE as the host's stock loader gives them, and a CLIP as judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.concept_bench import sampling
from bench.concept_bench.baseline_cache import FOLDER, BaselineCache, digest_of
from bench.concept_bench.checkpoint_asks import listed_asks, style_labels, thing_labels
from bench.concept_bench.checkpoint_names import ListedNames
from bench.concept_bench.tasks import Checkpoint, Task
from bench.speed_models import storage
from bench.world import Ask, Pack
from fmn_core.scores.clip_score import zero_shot
from fmn_core.scores.transformers_clip import TransformersClip
from tools import comfy_host


class CheckpointWorld(Pack):
    """Used on a GPU where torch finds one. The UNet is kept in float32, in which the peers' training was published.

    There is one MODEL: every method of the bench leaves its weights as they were, and base pictures are made before it works.
    """

    names, batch = ListedNames(), sampling.BATCH

    def __init__(self, checkpoint: Checkpoint, folder: Path = FOLDER) -> None:
        comfy_host.activate(cpu=not torch.cuda.is_available())
        with storage("fp32"):
            super().__init__(lambda host: _loaded(Path(checkpoint.file)))
        self.checkpoint = checkpoint
        self.image_text = TransformersClip(checkpoint.judge, "cuda" if torch.cuda.is_available() else "cpu")
        self.setting = {
            "checkpoint": Path(checkpoint.file).name,
            "judge": Path(checkpoint.judge).name,
            **{name: getattr(checkpoint, name) for name in ("sha256", "size", "steps", "guidance", "pictures")},
        }
        device, made_by = str(self.model.load_device), digest_of(Path(sampling.__file__))
        about = [checkpoint.sha256, made_by, torch.__version__, device]
        self.kept = BaselineCache(folder, about, in_memory=3)

    def asks(self, task: Task) -> dict[str, Ask]:
        return listed_asks(task)

    def sample(self, ask: Ask, model: Any = None) -> torch.Tensor:
        """Pictures of an ask as an image file holds them, (B, H, W, 3) in 0..1; those of the untouched model are made once."""
        if model is not None:
            return self.draw(ask.prompts, ask.seeds, model)
        c = self.checkpoint
        about = [c.size, c.steps, c.guidance, ask.prompts, ask.seeds]
        return self.kept.images(about, lambda: self._drawn(ask.prompts, ask.seeds, self.model)).float() / 255

    def draw(self, prompts: list[str], seeds: list[int], model: Any = None, conditions: Any = None) -> torch.Tensor:
        """The same of prompts and seeds, with conditionings that `conditions` makes."""
        return self._drawn(prompts, seeds, self.model if model is None else model, conditions).float() / 255

    def _drawn(self, prompts: list[str], seeds: list[int], model: Any, conditions: Any = None) -> torch.Tensor:
        c = self.checkpoint
        setting = c.size, c.steps, c.guidance, conditions
        return sampling.pictures(model, self.clip, self.vae, prompts, seeds, *setting)

    def judged(self, task: Task, images: torch.Tensor) -> tuple[list[str], list[str]]:
        """What the judge sees, the nearest of a task's labels: the thing, and for a style the style; see listed_asks."""
        things = zero_shot(self.image_text, images, thing_labels(task))
        if self.names.kind(task.concepts[0]) != "style":
            return things, [""] * len(images)
        styles = style_labels(task)
        return things, [styles[text] for text in zero_shot(self.image_text, images, list(styles), "{}")]


def _loaded(file: Path) -> tuple[Any, Any, Any]:
    import comfy.sd

    parts = comfy.sd.load_checkpoint_guess_config(str(file), output_vae=True)[:3]
    if any(part is None for part in parts):
        raise ValueError(
            f"Expected a checkpoint with UNet, text encoders and VAE in {file.name}, one is missing. Take one that holds all three."
        )
    return parts
