"""Methods of forgetting that the bench compares, each a context manager within which the model has forgotten."""

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
    """An applied method.

    Parameters
    ----------
    model
        MODEL to sample with; None where `sampler` draws.
    sampler
        Function of an Ask that draws its pictures, for methods that work at inference.
    seconds
        Time that forgetting took.
    patch_bytes
        Size of the file that a user would share.
    monitor
        Last figure of the drift monitor.
    patch
        The patch, where the method makes one.
    """

    model: Any = None
    sampler: Callable | None = None
    seconds: float = 0.0
    patch_bytes: int = 0
    monitor: str = ""
    patch: Any = None


Method = Callable[..., contextlib.AbstractContextManager[Applied]]


def patched(world: World, patch: Any) -> Applied:
    """The world's MODEL with a patch in the precision that its file stores."""
    with tempfile.TemporaryDirectory() as folder:
        size = save_patch(patch, Path(folder) / "patch.safetensors")
    model, _ = world.host.apply_patch(world.model, patch.as_stored(), 1.0)
    drift = patch.figures.get("drift")
    return Applied(
        model, None, patch.figures["seconds"], size, f"{drift[-1][1]:.3f}" if drift else "", patch.as_stored()
    )


def gate_function(world: World, patch: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Function that puts a patch on two conditionings with Gated Forget Patch at its automatic threshold."""
    node = world.node("patches.gated_patch").GatedForgetPatch

    def gate(positive: Any, negative: Any) -> tuple[Any, Any]:
        schedule = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        inputs = {"positive": positive, "negative": negative, "forget_patch": patch, "patch_file": "", **schedule}
        return node.execute(clip=world.clip, threshold=0.0, curve="step", **inputs).args[:2]

    return gate


def gated_sampler(world: World, patch: Any) -> Callable[[Ask], torch.Tensor]:
    """Sampler of asks with a patch behind its gate.

    Notes
    -----
    Prompts of the same concept are sampled together, because the host runs every set of active patches over the whole
    batch. The gate knows the texts of the prompts, as it does in a graph, where it reads them from the nodes before it.
    """
    gate = gate_function(world, patch)
    remember_texts = world.node("adapter.graph_texts").remember_texts

    def sampler(ask: Ask) -> torch.Tensor:
        pictures: dict[int, torch.Tensor] = {}
        for concept in dict.fromkeys(ask.concepts if patch.parts else ()) or (None,):
            rows = [n for n, name in enumerate(ask.concepts) if concept in (None, name)]
            prompts, seeds = ([column[n] for n in rows] for column in (ask.prompts, ask.seeds))
            with torch.inference_mode():
                for prompt in dict.fromkeys(prompts):
                    remember_texts(world.clip, [prompt], lambda tokens: True)
            pictures |= zip(rows, world.draw(prompts, seeds, conditions=gate))
        return torch.stack([pictures[n] for n in range(len(ask.prompts))])

    return sampler


def concept_of(world: World, adapter: Any, name: str, synonyms: bool = False) -> Any:
    """The Concept of a world's name, with its synonyms on request."""
    lookup = names_of(world)
    phrases = (lookup.phrase(name), *(lookup.synonyms(name) if synonyms else ()))
    return make_concept(adapter, "\n".join(phrases), lookup.kind(name))


def closed_form(preserve: Callable[[str], list[str]], synonyms: bool = False, **settings) -> Method:
    """The closed form with the given settings; `preserve(name)` lists the preserve prompts of a concept."""

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
    """The closed form with attack rounds on pictures that the model draws, nothing listed to preserve."""

    @contextlib.contextmanager
    def method(world: World, *names: str) -> Iterator[Applied]:
        adapter = world.adapter()
        budget = Budget(seed=seed)
        concepts = [concept_of(world, adapter, n) for n in names]
        with torch.inference_mode(False), adapter.ready_for_gradients(text=True):
            started, references = time.perf_counter(), []
            for concept in concepts:
                with torch.no_grad():
                    prompts = concept_prompts(adapter, concept).encoded
                    latents = sample_references(adapter, prompts, adapter.latent_shape(), pictures, seed)
                references.append(References(latents))
            hardening = Hardening(rounds, budget=budget)
            patch = forget_hardened(adapter, concepts, references, hardening=hardening)
            patch.figures["seconds"] = time.perf_counter() - started
        yield patched(world, patch)

    return method


def by_gradient(
    preserve: Callable[[str], list[str]],
    pictured: tuple[torch.Tensor, torch.Tensor | None] | None = None,
    end_token: str = "first",
    **settings,
) -> Method:
    """Training by gradient with the given settings.

    Parameters
    ----------
    preserve
        Lists the preserve prompts of a concept.
    pictured
        Pictures (N, H, W, 3) of the concept and their masks (N, H, W); None: training on noise alone.
    """

    @contextlib.contextmanager
    def method(world: World, *names: str) -> Iterator[Applied]:
        adapter = world.adapter()
        with torch.inference_mode(False):
            gradient_settings = GradientSettings(preserve_prompts=preserve(names[0]), **settings)
            concepts = [dataclasses.replace(concept_of(world, adapter, n), end_token=end_token) for n in names]
            latents, masks = torch.zeros(1, *adapter.latent_shape()), None
            if pictured is not None:
                latents, masks = adapter.encode_images(pictured[0].clone(), world.vae), pictured[1]
            with adapter.ready_for_gradients():
                pairs = image_pairs(adapter, concepts) if gradient_settings.visual_weight > 0 else None
                references = [References(latents, masks) for _ in concepts]
                patch = forget_by_gradient(adapter, concepts, references, gradient_settings, pairs=pairs)
        yield patched(world, patch)

    return method


def image_pairs(adapter: Any, concepts: list[Any], count: int = 4) -> list[Any]:
    """Image pairs of each concept with its phrase and all end tokens zeroed, as Visual Denoising Pairs makes them."""
    prompts = [concept_prompts(adapter, dataclasses.replace(c, end_token="all")) for c in concepts]
    size = adapter.latent_shape()
    return [make_pairs(adapter, p.encoded, p.columns, size, count=count) for p in prompts]


def published(**settings) -> Method:
    """The published training loop, whose result is a whole UNet and not a patch."""

    @contextlib.contextmanager
    def method(world: World, *names: str) -> Iterator[Applied]:
        kinds = {name: BY_NAME[name].kind for name in names}
        with torch.inference_mode(False), published_loop(world, kinds, **settings) as seconds:
            size = sum(p.numel() * 2 for p in world.model.model.diffusion_model.parameters())
            yield Applied(world.model, seconds=seconds, patch_bytes=size)

    return method


def zero_attention(end_token: str) -> Method:
    """Zero Concept Attention, which acts while sampling."""

    @contextlib.contextmanager
    def method(world: World, name: str) -> Iterator[Applied]:
        zeroed, columns = world.node("adapter.zeroed_sampling"), world.node("adapter.concept_columns")
        adapter = world.adapter()
        replace, sigmas = zeroed.in_cross_attention(set(world.host.attention_blocks(world.model))), (1e9, 0.0)

        def sampler(ask: Any) -> torch.Tensor:
            zero = zeroed.ZeroAttention(columns.ConceptColumns(adapter, [name], end_token, 1.0), replace, sigmas)
            zero.columns.learn(world.clip, sorted(set(ask.prompts)))
            return world.sample(ask, zero.patch(world.model, False))

        yield Applied(sampler=sampler)

    return method


def preserved_half(name: str) -> list[str]:
    """Every second of the other concepts, which is listed to be preserved."""
    return other_concepts(name)[::2]


def unlisted_half(name: str) -> list[str]:
    """The other concepts that `preserved_half` does not list."""
    return other_concepts(name)[1::2]
