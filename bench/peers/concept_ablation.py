"""Concept Ablation (Kumari et al., ICCV 2023, arXiv 2303.13516), model-based variant.

Keys and values of cross-attention are fine-tuned so that the prediction for a prompt with the concept equals the
model's prediction for the same prompt with an anchor in the concept's place, on pictures of the anchor that the model
drew.

Defaults are those of the released diffusers/README.md: 100 steps, batch 8 (4 on each of 2 GPUs), AdamW at 2e-6 x 8
(--scale_lr), weight decay 0.01, gradients clipped at 1, 200 pictures, and no prior preservation, as for objects and
styles there. Flips and the resizing augmentation are left out. The release takes a superordinate as an object's anchor
("cat" for "grumpy cat"), with prompts from a chat model; here the anchor is the nearest concept of the same kind, in
fmn_core's templates. The anchor of a style is the prompt without it. Several concepts take turns.
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
    """Settings of Concept Ablation.

    Parameters
    ----------
    anchor
        Phrase in the concept's place; "": the nearest concept of the same kind.
    steps
        Training steps for each concept.
    rate
        Learning rate.
    clip
        Largest norm of the gradient.
    """

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
class _AnchorPictures:
    """Latents of the anchor, and the encoded prompts that name the concept and the anchor."""

    latents: torch.Tensor
    named: list[Any]
    anchors: list[Any]


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The trained weights by name; `preserve` has no effect."""
    generator = torch.Generator().manual_seed(seed)
    with in_training(adapter, is_key_or_value) as weights:
        pictures = [_anchor_pictures(adapter, c, [d.phrase for d in concepts], settings, seed) for c in concepts]
        optimiser = torch.optim.AdamW(weights.parameters, lr=settings.rate, weight_decay=settings.weight_decay)
        for step in range(settings.steps * len(pictures)):
            loss = _loss(adapter, pictures[step % len(pictures)], settings, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.parameters, settings.clip)
            optimiser.step()
        return weights.changed()


def _anchor_pictures(
    adapter: Any, concept: Forgotten, all_names: list[str], settings: Settings, seed: int
) -> _AnchorPictures:
    is_style = concept.kind == "style"
    anchor = "" if is_style else settings.anchor or neighbour(adapter, concept, all_names)
    pairs = paired_prompts(concept, anchor, settings.pictures)
    pairs = (pairs * -(-settings.pictures // len(pairs)))[: settings.pictures]
    named, anchors = (adapter.encode([pair[k] for pair in pairs]) for k in (0, 1))
    size = adapter.latent_shape()
    return _AnchorPictures(
        sample_seeds(adapter, anchors, size, seed, settings.sampling_steps, settings.guidance), named, anchors
    )


def _loss(adapter: Any, pictures: _AnchorPictures, settings: Settings, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.randint(len(pictures.named), (settings.batch,), generator=generator).tolist()
    levels = adapter.sigmas()
    sigma = levels[torch.randint(len(levels), (settings.batch,), generator=generator)]
    noise = torch.randn(settings.batch, *adapter.latent_shape(), generator=generator)
    x = pictures.latents[chosen] + sigma.view(-1, 1, 1, 1) * noise
    with torch.no_grad():  # the paper's stop-gradient: the current model predicts for the anchor, too
        anchor_x0 = predicted(adapter, x, sigma, [pictures.anchors[i] for i in chosen])
    named_x0 = predicted(adapter, x, sigma, [pictures.named[i] for i in chosen])
    return output_error(adapter, named_x0, anchor_x0, sigma)
