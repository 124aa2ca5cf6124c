"""ESD: Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023, arXiv 2303.07345).

Fine-tunes the UNet so that its prediction for the concept's prompt equals the frozen model's prediction steered away
from that prompt, on x_t that the edited model samples with the prompt. ESD-x trains cross-attention, ESD-u everything
else.

Defaults are those of the released train-scripts/train-esd.py: 1000 iterations, Adam 1e-5, negative guidance 1, start
guidance 3, 50 sampling steps. The release draws the loss's timestep from the interval that ends at x_t's timestep; here
the loss is at x_t's timestep itself. Several concepts take turns. `our_contexts` is no part of the release, which trains
on one prompt for each concept.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers.denoising import output_error, partly_sampled, predicted
from bench.peers.peer_prompts import Forgotten, phrase_in_templates, prompt_of
from bench.peers.weights import in_training, is_text_attention


@dataclass(frozen=True)
class Settings:
    """Settings of ESD.

    Parameters
    ----------
    cross_attention
        Trains cross-attention (ESD-x), or everything else (ESD-u).
    iterations
        Training steps for each concept.
    rate
        Learning rate.
    template
        Prompt of an object or identity, with `{}` for its phrase.
    our_contexts
        Trains on a prompt drawn at each step from fmn_core's templates for the phrase, in the place of `template`.
    """

    cross_attention: bool = True
    iterations: int = 1000
    rate: float = 1e-5
    negative_guidance: float = 1.0
    start_guidance: float = 3.0
    sampling_steps: int = 50
    template: str = "{}"
    our_contexts: bool = False


def steered(none: torch.Tensor, named: torch.Tensor, guidance: float) -> torch.Tensor:
    """The prediction steered away from the named one: none - guidance * (named - none).

    Notes
    -----
    It may be computed in x0, eps or v, because these are affine functions of each other at the same x.
    """
    return none - guidance * (named - none)


def training_prompts(concept: Forgotten, settings: Settings) -> list[str]:
    """The prompts that a concept's training draws from: one, or all of fmn_core's templates."""
    return phrase_in_templates(concept) if settings.our_contexts else [prompt_of(concept, settings.template)]


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The trained weights by name; `preserve` has no effect."""
    generator, draw = torch.Generator().manual_seed(seed), random.Random(seed).choice
    [empty] = adapter.encode([""])
    prompts = [adapter.encode(training_prompts(c, settings)) for c in concepts]
    with in_training(adapter, lambda name: is_text_attention(name) == settings.cross_attention) as weights:
        optimiser = torch.optim.Adam(weights.parameters, lr=settings.rate)
        for step in range(settings.iterations * len(prompts)):
            loss = _loss(adapter, weights, draw(prompts[step % len(prompts)]), empty, settings, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return weights.changed()


def _loss(
    adapter: Any, weights: Any, prompt: Any, empty: Any, settings: Settings, generator: torch.Generator
) -> torch.Tensor:
    steps = settings.sampling_steps
    done = int(torch.randint(steps, (1,), generator=generator))
    x, sigma = partly_sampled(adapter, prompt, empty, steps, done, settings.start_guidance, generator)
    with weights.frozen():
        named, none = predicted(adapter, x, sigma, [prompt, empty]).chunk(2)
    target_x0 = steered(none, named, settings.negative_guidance)
    return output_error(adapter, predicted(adapter, x, sigma, [prompt]), target_x0, sigma)
