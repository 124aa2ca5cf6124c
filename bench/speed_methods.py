"""The methods of the speed bench: each makes a model forget concepts and reports its cost."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cost import Cost, measured
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

# The published number of steps; where fewer are run, the rest is extrapolated from them.
STEPS = 35
WARM = "guitar"


@dataclass
class Run:
    """What a method cost, and the MODEL it left, if it is to be looked at."""

    cost: Cost
    patch_bytes: int = 0
    model: Any = None
    note: str = ""


Method = Callable[..., contextlib.AbstractContextManager[Run]]


def preserved(subject: Pack, names: list[str]) -> list[str]:
    """What is listed to be preserved: the miniature's other concepts; nothing where nobody looks at what is kept."""
    return [n for n in other_concepts(names[0]) if n not in names] if isinstance(subject, World) else []


def concepts_of(subject: Pack, adapter: Any, names: list[str]) -> list[Any]:
    make = make_concept
    return [make(adapter, name, BY_NAME[name].kind if name in BY_NAME else "object") for name in names]


def _patched(subject: Pack, patch: Any, cost: Cost, note: str = "") -> Run:
    with tempfile.TemporaryDirectory() as folder:
        size = save_patch(patch, Path(folder) / "patch.safetensors")
    model, _ = subject.host.apply_patch(subject.model, patch.as_stored(), 1.0)
    return Run(cost, size, model, note)


def closed_form(warm: bool = False, listed: bool = False, **settings) -> Method:
    """The default of Train Forget Patch. `warm`: on a CLIP that has made a patch of another concept before; `listed`: with the other concepts to preserve."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        chosen = ClosedFormSettings(preserve_prompts=preserved(subject, names) if listed else [], **settings)
        with torch.inference_mode(False):
            if warm:
                cache = Cache(2**33)
                adapter = CachedEncoding(adapter, cache)
                forget_closed_form(adapter, concepts_of(subject, adapter, [WARM]), chosen)
            with measured() as cost:
                patch = forget_closed_form(adapter, concepts_of(subject, adapter, names), chosen)
        figures = patch.figures
        yield _patched(subject, patch, cost, f"rank {figures['rank']}, condition {figures['condition']:.0e}")

    return method


def by_gradient(steps: int = STEPS, **settings) -> Method:
    """Attention re-steering, the gradient path; `steps` are run, the published number is charged for."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        count = steps * len(names)
        chosen = GradientSettings(steps=count, preserve_prompts=preserved(subject, names), drift_every=0, **settings)
        with torch.inference_mode(False):
            concepts = concepts_of(subject, adapter, names)
            made = [References(torch.zeros(1, *adapter.latent_shape())) for _ in concepts]
            with measured() as cost, adapter.ready_for_gradients():
                clock = _StepClock()
                patch = forget_by_gradient(adapter, concepts, made, chosen, clock)
        yield _patched(subject, patch, clock.extrapolated(cost, steps), clock.note(steps))

    return method


def visual_denoising(steps: int = STEPS, pairs: int = 1, pair_steps: int = 2) -> Method:
    """The visual denoising loss; the pairs are drawn in so few steps for their shapes alone, and not charged for."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        size = adapter.latent_shape()
        chosen = GradientSettings(steps=steps, drift_every=0, attention_weight=0.0, visual_weight=1.0)
        with torch.inference_mode(False), torch.no_grad():
            concepts = concepts_of(subject, adapter, names)
            prompts = [concept_prompts(adapter, concept) for concept in concepts]
            subject.host.load(subject.model)
            made = [make_pairs(adapter, p.encoded, p.columns, size, pairs, pair_steps) for p in prompts]
        with torch.inference_mode(False), measured() as cost, adapter.ready_for_gradients():
            clock = _StepClock()
            latents = [References(p.kept) for p in made]
            patch = forget_by_gradient(adapter, concepts, latents, chosen, clock, made)
        yield _patched(subject, patch, clock.extrapolated(cost, steps), clock.note(steps))

    return method


def inversion(steps: int = STEPS, tokens: int = 4) -> Method:
    """Concept inversion from a word, on noise in place of pictures; `steps` are run, STEPS charged for."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        adapter = subject.adapter()
        latents = torch.randn(1, *adapter.latent_shape(), generator=torch.Generator().manual_seed(0))
        chosen = InversionSettings(tokens=tokens, words=names[0], steps=steps, warmup=0)
        with torch.inference_mode(False), measured() as cost, adapter.ready_for_gradients(text=True):
            clock = _StepClock()
            pictures = References(latents)
            invert_concept(adapter, pictures, ["a photo of {}"], chosen, progress=clock)
        yield Run(clock.extrapolated(cost, steps), note=clock.note(steps))

    return method


class _StepClock:
    """Seconds of every step but the first, which warms up."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, done: int, total: int, figures: dict) -> None:
        import time

        self.at.append(time.perf_counter())

    def extrapolated(self, cost: Cost, steps: int) -> Cost:
        if steps >= STEPS or len(self.at) < 2:
            return cost
        a_step = (self.at[-1] - self.at[0]) / (len(self.at) - 1)
        return dataclasses.replace(cost, seconds=cost.seconds + (STEPS - steps) * a_step)

    def note(self, steps: int) -> str:
        return "" if steps >= STEPS else f"{STEPS} steps extrapolated from {steps}"


def published(steps: int = STEPS, **settings) -> Method:
    """The published loop; what it leaves is a whole UNet, counted in fp16."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        kinds = {name: BY_NAME[name].kind if name in BY_NAME else "object" for name in names}
        size = sum(p.numel() * 2 for p in subject.model.model.diffusion_model.parameters())
        with measured() as cost, contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            seconds = stack.enter_context(published_loop(subject, kinds, steps=steps, **settings))
            kept = stack.pop_all()
        with kept:
            note = "" if steps >= STEPS else f"{STEPS} steps extrapolated from {steps}"
            yield Run(dataclasses.replace(cost, seconds=seconds * STEPS / steps), size, subject.model, note)

    return method


def train_lora_node(steps: int, charged: int) -> Method:
    """ComfyUI's own TrainLoraNode at its defaults: the prompt with the concept, on pictures drawn without it (which are not charged for)."""

    @contextlib.contextmanager
    def method(subject: Pack, names: list[str]) -> Iterator[Run]:
        from comfy_extras.nodes_train import LoraModelLoader, TrainLoraNode

        [concept] = concepts_of(subject, subject.adapter(), names)
        texts = concept.templates[::14]
        latents = [{"samples": _drawn(subject, ablated(t))} for t in texts]
        with torch.inference_mode():
            tokens = [subject.clip.tokenize(t.format(names[0])) for t in texts]
            conds = [subject.clip.encode_from_tokens_scheduled(t) for t in tokens]
        wanted = {
            "model": subject.model, "batch_size": 1, "steps": steps, "grad_accumulation_steps": 1, "learning_rate": 5e-4, "rank": 8,
            "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32", "algorithm": "LoRA",
            "gradient_checkpointing": False, "existing_lora": "[None]",
        }  # fmt: skip
        given = {"latents": latents, "positive": conds, **{name: [value] for name, value in wanted.items()}}
        with measured() as cost:
            lora = TrainLoraNode.execute(**given).args[1]
        size = sum(w.numel() * 2 for w in lora.values())
        model = LoraModelLoader.execute(subject.model, lora, 1.0).args[0]
        note = "" if steps == charged else f"{charged} steps extrapolated from {steps}"
        yield Run(dataclasses.replace(cost, seconds=cost.seconds * charged / steps), size, model, note)

    return method


def _drawn(subject: Pack, prompt: str) -> torch.Tensor:
    """Latents (1, C, h, w) of a picture by the host's sampler; noise where the weights are random anyway."""
    import comfy.sample

    shape = subject.adapter().latent_shape()
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    if shape[-1] > 32:
        return noise
    with torch.inference_mode():
        cond, empty = (subject.clip.encode_from_tokens_scheduled(subject.clip.tokenize(t)) for t in (prompt, ""))
        drawn = comfy.sample.sample(
            subject.model, noise, 12, 3.0, "euler", "simple", cond, empty, torch.zeros_like(noise), disable_pbar=True
        )
    return drawn.clone()


@contextlib.contextmanager
def inference(subject: Pack, names: list[str]) -> Iterator[Run]:
    """One step of sampling with guidance at the model's own size: what the others' memory is measured against."""
    import comfy.sample

    adapter = subject.adapter()
    noise = torch.randn(1, *adapter.latent_shape())
    with torch.inference_mode(), measured() as cost:
        cond = subject.clip.encode_from_tokens_scheduled(subject.clip.tokenize("a photo of a cat"))
        empty = subject.clip.encode_from_tokens_scheduled(subject.clip.tokenize(""))
        comfy.sample.sample(
            subject.model, noise, 1, 3.0, "euler", "simple", cond, empty, torch.zeros_like(noise), disable_pbar=True
        )
    yield Run(cost)
