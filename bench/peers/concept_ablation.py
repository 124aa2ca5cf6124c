"""Concept Ablation (Kumari et al., ICCV 2023, arXiv 2303.13516), model-based variant.

Keys and values of cross-attention are fine-tuned so that the prediction for a prompt with the concept is what the model
predicts for the same prompt with an anchor in its place, on pictures of the anchor that the model made. Defaults are
those of the released diffusers/README.md: 100 steps, batch 8 (4 on each of 2 GPUs), AdamW at 2e-6 x 8 (--scale_lr), weight decay 0.01,
gradients clipped at 1, 200 pictures; no prior preservation, as for objects and styles there. Left out: flips and the resizing
augmentation. The anchor of an object is a superordinate there ("cat" for "grumpy cat"), with prompts from a chat model; where none is
known it is the nearest concept of the same kind, in fmn_core's templates; that of a style is the prompt without it. Several concepts take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers.denoising import output_error, predicted
from bench.peers.peer_prompts import Forgotten, neighbour, paired_prompts
from bench.peers.weights import in_training, is_key_or_value
from fmn_core.model.sampler import sample_seeds


@dataclass(frozen=True)
class Settings:
    """`steps` are for each concept; `anchor` "" means the nearest concept of the same kind."""

    anchor: str = ""
    steps: int = 100
    batch: int = 8
    rate: float = 1.6e-5
    weight_decay: float = 0.01
    clip: float = 1.0
    pictures: int = 200
    sampling_steps: int = 50
    guidance: float = 6.0


@dataclass
class _Pictures:
    """Latents of the anchor, and the encoded prompts that name the concept and the anchor."""

    latents: torch.Tensor
    named: list[Any]
    anchors: list[Any]


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The trained weights by name; `preserve` is not used."""
    generator = torch.Generator().manual_seed(seed)
    with in_training(adapter, is_key_or_value) as weights:
        made = [_pictures(adapter, c, [d.phrase for d in concepts], settings, seed) for c in concepts]
        optimiser = torch.optim.AdamW(weights.parameters, lr=settings.rate, weight_decay=settings.weight_decay)
        for step in range(settings.steps * len(made)):
            loss = _loss(adapter, made[step % len(made)], settings, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.parameters, settings.clip)
            optimiser.step()
        return weights.changed()


def _pictures(adapter: Any, concept: Forgotten, all_names: list[str], settings: Settings, seed: int) -> _Pictures:
    is_style = concept.kind == "style"
    anchor = "" if is_style else settings.anchor or neighbour(adapter, concept, all_names)
    pairs = paired_prompts(concept, anchor, settings.pictures)
    pairs = (pairs * -(-settings.pictures // len(pairs)))[: settings.pictures]
    named, anchors = (adapter.encode([pair[k] for pair in pairs]) for k in (0, 1))
    size = adapter.latent_shape()
    return _Pictures(
        sample_seeds(adapter, anchors, size, seed, settings.sampling_steps, settings.guidance), named, anchors
    )


def _loss(adapter: Any, made: _Pictures, settings: Settings, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.randint(len(made.named), (settings.batch,), generator=generator).tolist()
    levels = adapter.sigmas()
    sigma = levels[torch.randint(len(levels), (settings.batch,), generator=generator)]
    noise = torch.randn(settings.batch, *adapter.latent_shape(), generator=generator)
    x = made.latents[chosen] + sigma.view(-1, 1, 1, 1) * noise
    with torch.no_grad():  # the paper's stop-gradient: the anchor's prediction is the model's own of this moment
        wanted = predicted(adapter, x, sigma, [made.anchors[i] for i in chosen])
    return output_error(adapter, predicted(adapter, x, sigma, [made.named[i] for i in chosen]), wanted, sigma)
