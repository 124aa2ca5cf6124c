"""The ways to forget that the bench compares, each a context manager: the model is changed while it is open."""

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

from bench.names import names_of
from bench.published_loop import published_loop
from bench.world import Ask, World, other_concepts
from fmn_core.attacks.hardening import Hardening, forget_hardened
from fmn_core.attacks.search import Budget
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.patch.file import save_patch
from fmn_core.training.concept_prompts import concept_prompts
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.references import References, make_pairs, sample_references
from mini_sd.concepts import BY_NAME


@dataclass
class Applied:
    """An applied method: the MODEL or sampler to draw with, its cost, and the patch where there is one."""

    model: Any = None
    sampler: Callable | None = None
    seconds: float = 0.0
    patch_bytes: int = 0
    monitor: str = ""
    patch: Any = None


Method = Callable[..., contextlib.AbstractContextManager[Applied]]


def patched(world: World, patch: Any) -> Applied:
    """Applies a patch to the MODEL in the precision that its file stores."""
    with tempfile.TemporaryDirectory() as folder:
        size = save_patch(patch, Path(folder) / "patch.safetensors")
    model, _ = world.host.apply_patch(world.model, patch.as_stored(), 1.0)
    drift = patch.figures.get("drift")
    return Applied(
        model, None, patch.figures["seconds"], size, f"{drift[-1][1]:.3f}" if drift else "", patch.as_stored()
    )


def gate_of(world: World, patch: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Puts the patch on a positive and a negative conditioning as Gated Forget Patch does, at its own threshold."""
    node = world.node("patches.gated_patch").GatedForgetPatch

    def gate(positive: Any, negative: Any) -> tuple[Any, Any]:
        when = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        inputs = {"positive": positive, "negative": negative, "forget_patch": patch, "patch_file": "", **when}
        return node.execute(clip=world.clip, threshold=0.0, curve="step", **inputs).args[:2]

    return gate


def gated(world: World, patch: Any) -> Callable[[Ask], torch.Tensor]:
    """Pictures of an ask with the patch behind its gate.

    Prompts for the same concept are sampled together: the host runs every set of acting patches over the whole batch.
    """
    gate = gate_of(world, patch)

    def sampler(ask: Ask) -> torch.Tensor:
        made: dict[int, torch.Tensor] = {}
        for concept in dict.fromkeys(ask.concepts if patch.parts else ()) or (None,):
            rows = [n for n, name in enumerate(ask.concepts) if concept in (None, name)]
            prompts, seeds = ([of[n] for n in rows] for of in (ask.prompts, ask.seeds))
            made |= zip(rows, world.draw(prompts, seeds, conditions=gate))
        return torch.stack([made[n] for n in range(len(ask.prompts))])

    return sampler


def concept_of(world: World, adapter: Any, name: str, synonyms: bool = False) -> Any:
    names = names_of(world)
    phrases = (names.phrase(name), *(names.synonyms(name) if synonyms else ()))
    return make_concept(adapter, "\n".join(phrases), names.kind(name))


def closed_form(preserve: Callable[[str], list[str]], synonyms: bool = False, **settings) -> Method:
    """The closed form with the node's settings. `preserve(name)` lists the preserve prompts for a concept."""

    @contextlib.contextmanager
    def method(world: World, *names: str) -> Iterator[Applied]:
        adapter = world.adapter()
        concepts = [concept_of(world, adapter, name, synonyms) for name in names]
        chosen = ClosedFormSettings(preserve_prompts=preserve(names[0]), **settings)
        started = time.perf_counter()
        with torch.inference_mode(False):
            patch = forget_closed_form(adapter, concepts, chosen)
        patch.figures["seconds"] = time.perf_counter() - started
        yield patched(world, patch)

    return method


def hardened(rounds: int, pictures: int = 8, seed: int = 0) -> Method:
    """The closed form with attack rounds, nothing listed to preserve, on pictures that the model draws."""

    @contextlib.contextmanager
    def method(world: World, *names: str) -> Iterator[Applied]:
        adapter = world.adapter()
        budget = Budget(seed=seed)
        concepts = [concept_of(world, adapter, n) for n in names]
        with torch.inference_mode(False), adapter.ready_for_gradients(text=True):
            started, made = time.perf_counter(), []
            for concept in concepts:
                with torch.no_grad():
                    prompts = concept_prompts(adapter, concept).encoded
                    latents = sample_references(adapter, prompts, adapter.latent_shape(), pictures, seed)
                made.append(References(latents))
            chosen = Hardening(rounds, budget=budget)
            patch = forget_hardened(adapter, concepts, made, hardening=chosen)
            patch.figures["seconds"] = time.perf_counter() - started
        yield patched(world, patch)

    return method


def by_gradient(
    preserve: Callable[[str], list[str]],
    pictured: tuple[torch.Tensor, torch.Tensor | None] | None = None,
    end_token: str = "first",
    **settings,
) -> Method:
    """Training by gradient with the node's settings, on noise or on pictures with masks; image pairs where the visual loss is on."""

    @contextlib.contextmanager
    def method(world: World, *names: str) -> Iterator[Applied]:
        adapter = world.adapter()
        with torch.inference_mode(False):
            chosen = GradientSettings(preserve_prompts=preserve(names[0]), **settings)
            concepts = [dataclasses.replace(concept_of(world, adapter, n), end_token=end_token) for n in names]
            latents, masks = torch.zeros(1, *adapter.latent_shape()), None
            if pictured is not None:
                latents, masks = adapter.encode_images(pictured[0].clone(), world.vae), pictured[1]
            with adapter.ready_for_gradients():
                pairs = made_pairs(world, adapter, concepts) if chosen.visual_weight > 0 else None
                made = [References(latents, masks) for _ in concepts]
                patch = forget_by_gradient(adapter, concepts, made, chosen, pairs=pairs)
        yield patched(world, patch)

    return method


def made_pairs(world: World, adapter: Any, concepts: list[Any], count: int = 4) -> list[Any]:
    """Pairs of each concept, the phrase and all end tokens zeroed, as the Visual Denoising Pairs node makes them."""
    prompts = [concept_prompts(adapter, dataclasses.replace(c, end_token="all")) for c in concepts]
    make = make_pairs
    return [make(adapter, p.encoded, p.columns, (4, 16, 16), count=count) for p in prompts]


def published(**settings) -> Method:
    """The published loop, whose result is a whole UNet and not a patch."""

    @contextlib.contextmanager
    def method(world: World, *names: str) -> Iterator[Applied]:
        kinds = {name: BY_NAME[name].kind for name in names}
        with torch.inference_mode(False), published_loop(world, kinds, **settings) as seconds:
            size = sum(p.numel() * 2 for p in world.model.model.diffusion_model.parameters())
            yield Applied(world.model, seconds=seconds, patch_bytes=size)

    return method


def zero_attention(end_token: str) -> Method:
    """Zero Concept Attention at sampling time."""

    @contextlib.contextmanager
    def method(world: World, name: str) -> Iterator[Applied]:
        node = world.node("attention.zero_attention")
        adapter = world.adapter()
        blocks, sigmas = set(world.host.attention_blocks(world.model)), (1e9, 0.0)

        def sampler(ask: Any) -> torch.Tensor:
            zero = node.ZeroAttention(adapter, [name], end_token, 1.0, blocks, sigmas)
            zero.learn(adapter, sorted(set(ask.prompts)))
            return world.sample(ask, zero.patch(world.model, False))

        yield Applied(sampler=sampler)

    return method


def half_of(name: str) -> list[str]:
    return other_concepts(name)[::2]


def other_half_of(name: str) -> list[str]:
    return other_concepts(name)[1::2]
