"""SPM: One-dimensional Adapter to Rule Them All (Lyu et al., CVPR 2024, arXiv 2312.16145).

A rank-1 adapter for each concept on the linear layers and convolutions of the UNet's transformer blocks. It is trained
to steer the concept's prediction away from itself, on x_t sampled with the adapter on (as ESD), while the predictions
for random contexts around the concept stay (latent anchoring). At inference its strength is the prompt's similarity to
the concept (facilitated transport). Several concepts have an adapter each, and their effects add up.

Defaults are those of the released configs/snoopy: 3000 iterations, AdamW 1e-4, cosine with 3 restarts after 500 steps
of warm-up, 30 sampling steps of which 1 to 29 are done, guidance 3 while sampling and 1 in the loss, la_strength 1000,
4 anchors a step.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers.adapters import Adapters
from bench.peers.denoising import output_error, partly_sampled, predicted
from bench.peers.esd import steered
from bench.peers.peer_prompts import Forgotten, prompt_of
from fmn_core.model.tokens import strip_special


@dataclass(frozen=True)
class Settings:
    """Settings of SPM.

    Parameters
    ----------
    rate
        Learning rate.
    warm_up
        Share of the iterations over which the learning rate rises, 0..1.
    anchoring
        Weight of the anchors' loss.
    anchors
        Random contexts in each step.
    template
        Prompt of an object or identity, with `{}` for its phrase.
    """

    iterations: int = 3000
    rate: float = 1e-4
    warm_up: float = 1 / 6
    restarts: int = 3
    rank: int = 1
    guidance: float = 1.0
    start_guidance: float = 3.0
    sampling_steps: int = 30
    anchoring: float = 1000.0
    anchors: int = 4
    template: str = "{}"


def transport(prompt: Any, erased: Any, vocabulary: Any) -> float:
    """Strength gamma of the adapter for a prompt: the larger of a cosine and a share of tokens.

    Notes
    -----
    The cosine is that of both contexts, all rows as one vector; the share is that of the erased concept's tokens which
    the prompt holds. Source: infer_spm.py, metric clipcos_tokenuni.
    """
    cosine = torch.cosine_similarity(prompt.context.flatten().float(), erased.context.flatten().float(), 0)
    overlap = 0.0
    for encoder, chunks in erased.tokens.items():
        concept_tokens = set(strip_special(chunks, vocabulary))
        common = concept_tokens & set(strip_special(prompt.tokens[encoder], vocabulary))
        overlap = max(overlap, len(common) / max(1, len(concept_tokens)))
    return max(float(cosine), overlap)


def random_anchors(prompt: Any, count: int, generator: torch.Generator) -> list[Any]:
    """Prompts with random contexts, of 0.8 to 1.2 times the prompt's norm.

    Notes
    -----
    Directions are drawn uniformly and accepted with probability 1 - cosine to the prompt's context.
    """
    anchors = []
    while len(anchors) < count:
        drawn = torch.randn(prompt.context.shape, generator=generator)
        cosine = torch.cosine_similarity(drawn.flatten(), prompt.context.flatten().float().cpu(), 0)
        if torch.rand(1, generator=generator) < 1 - cosine:
            scale = (0.8 + 0.4 * torch.rand(1, generator=generator)) * prompt.context.float().cpu().norm()
            anchors.append(dataclasses.replace(prompt, context=drawn / drawn.norm() * scale))
    return anchors


def rate_factor(step: int, settings: Settings) -> float:
    """Factor of the learning rate at a step: a linear warm-up, then `restarts` half cosines."""
    warm = settings.warm_up * settings.iterations
    if step < warm:
        return step / warm
    done = (step - warm) / max(1, settings.iterations - warm)
    return 0.5 * (1 + math.cos(math.pi * (settings.restarts * done % 1)))


def train(adapter: Any, concept: Forgotten, settings: Settings, seed: int = 0) -> Adapters:
    """The trained adapter of one concept; the model's weights do not change."""
    generator = torch.Generator().manual_seed(seed)
    empty, prompt = adapter.encode(["", prompt_of(concept, settings.template)])
    layers = {n: m for n, m in adapter.linear_layers().items() if ".attentions." in n}
    spm = Adapters(layers, settings.rank, seed)
    with adapter.ready_for_gradients():
        spm.require_gradients(True)
        optimiser = torch.optim.AdamW(spm.parameters, lr=settings.rate)
        for step in range(settings.iterations):
            optimiser.param_groups[0]["lr"] = settings.rate * rate_factor(step, settings)
            loss = _loss(adapter, spm, prompt, empty, settings, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        spm.require_gradients(False)
    return spm


def _loss(
    adapter: Any, spm: Adapters, prompt: Any, empty: Any, settings: Settings, generator: torch.Generator
) -> torch.Tensor:
    steps = settings.sampling_steps
    done = int(torch.randint(1, steps, (1,), generator=generator))
    with spm.applied():
        x, sigma = partly_sampled(adapter, prompt, empty, steps, done, settings.start_guidance, generator)
    prompts = [prompt, *random_anchors(prompt, settings.anchors, generator)]
    with torch.no_grad():
        none, named, *anchors = predicted(adapter, x, sigma, [empty, *prompts])
    with spm.applied():
        adapted, *adapted_anchors = predicted(adapter, x, sigma, prompts)
    erasing = output_error(adapter, adapted, steered(none, named, settings.guidance), sigma)
    return erasing + settings.anchoring * output_error(
        adapter, torch.stack(adapted_anchors), torch.stack(anchors), sigma
    )
