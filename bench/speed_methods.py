"""Methods of the speed bench, each of which makes a model forget concepts and reports its cost."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cost import Cost, measure_cost
from bench.published_loop import published_loop
from bench.world import Pack, World, other_concepts
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.targets import ablated
from fmn_core.concepts.concept import make_concept
from fmn_core.model.encoding_cache import CachedEncoding
from fmn_core.model.memory_cache import Cache
from fmn_core.patch.file import save_patch
from fmn_core.training.concept_prompts import concept_prompts
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.inversion import InversionSettings, invert_concept
from fmn_core.training.references import References, make_pairs
from mini_sd.concepts import BY_NAME

# Where fewer steps are run, the seconds of the others are extrapolated.
PUBLISHED_STEPS = 35
WARM_CONCEPT = "guitar"


@dataclass
class Run:
    """Cost of a method, the size of its file, and the MODEL that it leaves for the judge."""

    cost: Cost
    patch_bytes: int = 0
    model: Any = None
    note: str = ""


TimedMethod = Callable[..., contextlib.AbstractContextManager[Run]]


def listed_prompts(subject: Pack, names: list[str]) -> list[str]:
    """Preserve prompts: the miniature's other concepts, or none on a full-size model, whose pictures are not judged."""
    return [n for n in other_concepts(names[0]) if n not in names] if isinstance(subject, World) else []


def concepts_of(subject: Pack, adapter: Any, names: list[str]) -> list[Any]:
    """Concepts by name; a name that the miniature does not have is an object."""
    return [make_concept(adapter, name, BY_NAME[name].kind if name in BY_NAME else "object") for name in names]


def _patched(subject: Pack, patch: Any, cost: Cost, note: str = "") -> Run:
    with tempfile.TemporaryDirectory() as folder:
        size = save_patch(patch, Path(folder) / "patch.safetensors")
    model, _ = subject.host.apply_patch(subject.model, patch.as_stored(), 1.0)
    return Run(cost, size, model, note)


def closed_form(warm: bool = False, listed: bool = False, **settings) -> TimedMethod:
    """The default of Forget Concept.

    Parameters
    ----------
    warm
        Whether the encoding cache already holds the prompts of another concept's patch.
    listed
        Whether the other concepts are listed to preserve.
    """

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        closed_form_settings = ClosedFormSettings(
            preserve_prompts=listed_prompts(subject, names) if listed else [], **settings
        )
        with torch.inference_mode(False):
            if warm:
                cache = Cache(2**33)
                adapter = CachedEncoding(adapter, cache)
                forget_closed_form(adapter, concepts_of(subject, adapter, [WARM_CONCEPT]), closed_form_settings)
            with measure_cost() as cost:
                patch = forget_closed_form(adapter, concepts_of(subject, adapter, names), closed_form_settings)
        figures = patch.figures
        yield _patched(subject, patch, cost, f"rank {figures['rank']}, condition {figures['condition']:.0e}")

    return method


def by_gradient(steps: int = PUBLISHED_STEPS, **settings) -> TimedMethod:
    """Attention re-steering; `steps` are run, and the cost is that of the published number."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        count = steps * len(names)
        gradient_settings = GradientSettings(
            steps=count, preserve_prompts=listed_prompts(subject, names), drift_every=0, **settings
        )
        with torch.inference_mode(False):
            concepts = concepts_of(subject, adapter, names)
            references = [References(torch.zeros(1, *adapter.latent_shape())) for _ in concepts]
            with measure_cost() as cost, adapter.ready_for_gradients():
                clock = _StepClock()
                patch = forget_by_gradient(adapter, concepts, references, gradient_settings, clock)
        yield _patched(subject, patch, clock.extrapolated(cost, steps), clock.note(steps))

    return method


def visual_denoising(steps: int = PUBLISHED_STEPS, pairs: int = 1, pair_steps: int = 2) -> TimedMethod:
    """The visual denoising loss; its pairs, drawn in few steps for their shapes, are not part of the cost."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        size = adapter.latent_shape()
        gradient_settings = GradientSettings(steps=steps, drift_every=0, attention_weight=0.0, visual_weight=1.0)
        with torch.inference_mode(False), torch.no_grad():
            concepts = concepts_of(subject, adapter, names)
            prompts = [concept_prompts(adapter, concept) for concept in concepts]
            subject.host.load(subject.model)
            concept_pairs = [make_pairs(adapter, p.encoded, p.columns, size, pairs, pair_steps) for p in prompts]
        with torch.inference_mode(False), measure_cost() as cost, adapter.ready_for_gradients():
            clock = _StepClock()
            references = [References(p.kept) for p in concept_pairs]
            patch = forget_by_gradient(adapter, concepts, references, gradient_settings, clock, concept_pairs)
        yield _patched(subject, patch, clock.extrapolated(cost, steps), clock.note(steps))

    return method


def inversion(steps: int = PUBLISHED_STEPS, tokens: int = 4) -> TimedMethod:
    """Concept inversion from a word, on noise; `steps` are run, and the cost is that of PUBLISHED_STEPS."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        latents = torch.randn(1, *adapter.latent_shape(), generator=torch.Generator().manual_seed(0))
        inversion_settings = InversionSettings(tokens=tokens, words=names[0], steps=steps, warmup=0)
        with torch.inference_mode(False), measure_cost() as cost, adapter.ready_for_gradients(text=True):
            clock = _StepClock()
            invert_concept(adapter, References(latents), ["a photo of {}"], inversion_settings, progress=clock)
        yield Run(clock.extrapolated(cost, steps), note=clock.note(steps))

    return method


class _StepClock:
    """Progress callback that times the steps, to extrapolate; the first step, which warms up, is left out."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, done: int, total: int, figures: dict) -> None:
        self.times.append(time.perf_counter())

    def extrapolated(self, cost: Cost, steps: int) -> Cost:
        """The cost of PUBLISHED_STEPS, from that of `steps`."""
        if steps >= PUBLISHED_STEPS or len(self.times) < 2:
            return cost
        step_seconds = (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        return dataclasses.replace(cost, seconds=cost.seconds + (PUBLISHED_STEPS - steps) * step_seconds)

    def note(self, steps: int) -> str:
        """Note for the table where the cost is extrapolated."""
        return "" if steps >= PUBLISHED_STEPS else f"{PUBLISHED_STEPS} steps extrapolated from {steps}"


def published(steps: int = PUBLISHED_STEPS, **settings) -> TimedMethod:
    """The published loop, whose file is a whole UNet in fp16."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        kinds = {name: BY_NAME[name].kind if name in BY_NAME else "object" for name in names}
        size = sum(p.numel() * 2 for p in subject.model.model.diffusion_model.parameters())
        with measure_cost() as cost, contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            seconds = stack.enter_context(published_loop(subject, kinds, steps=steps, **settings))
            kept = stack.pop_all()
        with kept:
            note = "" if steps >= PUBLISHED_STEPS else f"{PUBLISHED_STEPS} steps extrapolated from {steps}"
            yield Run(dataclasses.replace(cost, seconds=seconds * PUBLISHED_STEPS / steps), size, subject.model, note)

    return method


def train_lora_node(steps: int, charged: int) -> TimedMethod:
    """ComfyUI's TrainLoraNode at its defaults, with `steps` run and the cost of `charged` steps.

    Notes
    -----
    It trains the prompt with the concept on pictures of the ablated prompt, which are not part of the cost.
    """

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        from comfy_extras.nodes_train import LoraModelLoader, TrainLoraNode

        [concept] = concepts_of(subject, subject.adapter(), names)
        texts = concept.templates[::14]
        latents = [{"samples": _sampled_latents(subject, ablated(t))} for t in texts]
        with torch.inference_mode():
            tokens = [subject.clip.tokenize(t.format(names[0])) for t in texts]
            conds = [subject.clip.encode_from_tokens_scheduled(t) for t in tokens]
        widgets = {
            "model": subject.model, "batch_size": 1, "steps": steps, "grad_accumulation_steps": 1, "learning_rate": 5e-4, "rank": 8,
            "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32", "algorithm": "LoRA",
            "gradient_checkpointing": False, "existing_lora": "[None]",
        }  # fmt: skip
        inputs = {"latents": latents, "positive": conds, **{name: [value] for name, value in widgets.items()}}
        with measure_cost() as cost:
            lora = TrainLoraNode.execute(**inputs).args[1]
        size = sum(w.numel() * 2 for w in lora.values())
        model = LoraModelLoader.execute(subject.model, lora, 1.0).args[0]
        note = "" if steps == charged else f"{charged} steps extrapolated from {steps}"
        yield Run(dataclasses.replace(cost, seconds=cost.seconds * charged / steps), size, model, note)

    return method


def _sampled_latents(subject: Pack, prompt: str) -> torch.Tensor:
    """Latents (1, C, h, w) of a picture by the host's sampler; noise for full-size models, whose weights are random."""
    import comfy.sample

    shape = subject.adapter().latent_shape()
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    if shape[-1] > 32:
        return noise
    with torch.inference_mode():
        cond, empty = (subject.clip.encode_from_tokens_scheduled(subject.clip.tokenize(t)) for t in (prompt, ""))
        latents = comfy.sample.sample(
            subject.model, noise, 12, 3.0, "euler", "simple", cond, empty, torch.zeros_like(noise), disable_pbar=True
        )
    return latents.clone()


@contextlib.contextmanager
def inference(subject: Pack, names: list[str]) -> Iterator[Run]:
    """One sampling step with guidance at the model's native size, as a reference for the memory of the methods."""
    import comfy.sample

    adapter = subject.adapter()
    noise = torch.randn(1, *adapter.latent_shape())
    with torch.inference_mode(), measure_cost() as cost:
        cond = subject.clip.encode_from_tokens_scheduled(subject.clip.tokenize("a photo of a cat"))
        empty = subject.clip.encode_from_tokens_scheduled(subject.clip.tokenize(""))
        comfy.sample.sample(
            subject.model, noise, 1, 3.0, "euler", "simple", cond, empty, torch.zeros_like(noise), disable_pbar=True
        )
    yield Run(cost)
