"""A Stable Diffusion checkpoint in one file, loaded by the host's stock loader, with a CLIP as judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.concept_bench import sampling
from bench.concept_bench.baseline_cache import FOLDER, BaselineCache, digest_of
from bench.concept_bench.checkpoint_asks import listed_asks, style_labels, thing_labels
from bench.concept_bench.checkpoint_names import ListedNames
from bench.concept_bench.tasks import Checkpoint, Task
from bench.speed_models import load_checkpoint, storage
from bench.world import Ask, Pack
from fmn_core.scores.clip_score import zero_shot
from fmn_core.scores.transformers_clip import TransformersClip
from tools import comfy_host


class CheckpointWorld(Pack):
    """The world of a checkpoint, on a GPU where torch finds one.

    Notes
    -----
    The UNet is in float32, in which the peers' training was published. There is one MODEL, because every method of the
    bench restores its weights, and the base pictures are drawn before the method runs.
    """

    names, batch = ListedNames(), sampling.BATCH

    def __init__(self, checkpoint: Checkpoint, folder: Path = FOLDER) -> None:
        comfy_host.activate(cpu=not torch.cuda.is_available())
        with storage("fp32"):
            super().__init__(lambda host: load_checkpoint(Path(checkpoint.file)))
        self.checkpoint = checkpoint
        self.image_text = TransformersClip(checkpoint.judge, "cuda" if torch.cuda.is_available() else "cpu")
        self.setting = {
            "checkpoint": Path(checkpoint.file).name,
            "judge": Path(checkpoint.judge).name,
            **{name: getattr(checkpoint, name) for name in ("sha256", "size", "steps", "guidance", "pictures")},
        }
        device, sampling_digest = str(self.model.load_device), digest_of(Path(sampling.__file__))
        inputs = [checkpoint.sha256, sampling_digest, torch.__version__, device]
        self.baseline_cache = BaselineCache(folder, inputs, in_memory=3)

    def asks(self, task: Task) -> dict[str, Ask]:
        """The asks of a task."""
        return listed_asks(task)

    def sample(self, ask: Ask, model: Any = None) -> torch.Tensor:
        """Pictures (B, H, W, 3) of an ask, rounded to 8 bits, in 0..1; those of the untouched model are drawn once."""
        if model is not None:
            return self.draw(ask.prompts, ask.seeds, model)
        c = self.checkpoint
        inputs = [c.size, c.steps, c.guidance, ask.prompts, ask.seeds]
        return (
            self.baseline_cache.images(inputs, lambda: self._pictures(ask.prompts, ask.seeds, self.model)).float() / 255
        )

    def draw(self, prompts: list[str], seeds: list[int], model: Any = None, conditions: Any = None) -> torch.Tensor:
        """Pictures of prompts and seeds, with conditionings that `conditions` changes."""
        return self._pictures(prompts, seeds, self.model if model is None else model, conditions).float() / 255

    def _pictures(self, prompts: list[str], seeds: list[int], model: Any, conditions: Any = None) -> torch.Tensor:
        c = self.checkpoint
        setting = c.size, c.steps, c.guidance, conditions
        return sampling.pictures(model, self.clip, self.vae, prompts, seeds, *setting)

    def judged(self, task: Task, images: torch.Tensor) -> tuple[list[str], list[str]]:
        """The thing, and for a style the style, whose label the judge finds nearest to each picture."""
        things = zero_shot(self.image_text, images, thing_labels(task))
        if self.names.kind(task.concepts[0]) != "style":
            return things, [""] * len(images)
        styles = style_labels(task)
        return things, [styles[text] for text in zero_shot(self.image_text, images, list(styles), "{}")]
