"""Reference latents of a concept with their masks, and image pairs that the model draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.sampler import GUIDANCE, sample, sample_seeds, seeded_noise
from ..model.tokens import EncodedPrompt

# Sampling of image pairs, where nothing else is chosen.
PAIR_STEPS, PAIR_GUIDANCE = 20, GUIDANCE
_BATCH = 4


@dataclass
class References:
    """Reference latents of a concept.

    Parameters
    ----------
    latents
        Latents (N, C, h, w) in the model's scale.
    masks
        Masks (N or 1, H, W) in 0..1, of the images' size; None shows all of them.

    Raises
    ------
    ForgetError
        When there are neither one mask nor as many as latents.
    """

    latents: torch.Tensor
    masks: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.masks is not None and len(self.masks) not in (1, len(self.latents)):
            raise ForgetError(
                f"Expected one mask or one for each of {len(self.latents)} images, got {len(self.masks)}. "
                "Connect as many masks as images."
            )


@dataclass
class ImagePairs:
    """Latents of the same seed and prompt, with the concept's attention kept and zeroed.

    Parameters
    ----------
    kept, zeroed
        Latents (N, C, h, w).
    prompts
        Number of each pair's prompt.
    """

    kept: torch.Tensor
    zeroed: torch.Tensor
    prompts: list[int]


def make_pairs(
    model: ForgetModel,
    prompts: list[EncodedPrompt],
    columns: list[list[int]],
    size: tuple[int, int, int],
    count: int = 4,
    steps: int = PAIR_STEPS,
    guidance: float = PAIR_GUIDANCE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ImagePairs:
    """Samples image pairs: x0 with the model's attention, and x~0 with the attention of the concept's columns zeroed.

    Parameters
    ----------
    prompts, columns
        Encoded prompts, and the concept columns of each. The pairs are spread evenly over them.
    size
        Shape (C, h, w) of a latent.
    seed
        Seed of the first pair's noise; every next pair has the next seed.
    progress
        Called as progress(done, count) after every batch.

    Raises
    ------
    ForgetError
        Without prompts.

    Notes
    -----
    Source: FMN, section 3.3 (visual denoising loss).
    """
    if not prompts:
        raise ForgetError("Expected prompts to make pairs with, got none. Name the concept.")
    numbers = spread_evenly(count, len(prompts))
    [empty] = model.encode([""])
    kept, zeroed = [], []
    for start in range(0, count, _BATCH):
        batch = numbers[start : start + _BATCH]
        batch_prompts = [prompts[n] for n in batch]
        noise = torch.stack([seeded_noise(size, seed + start + k) for k in range(len(batch))])
        kept.append(sample(model, batch_prompts, empty, noise, steps, guidance))
        weight = torch.zeros(2 * len(batch), batch_prompts[0].whole_context.shape[0])
        for row, n in enumerate(batch):
            weight[row, columns[n]] = 1
        with model.scale_columns(weight):
            zeroed.append(sample(model, batch_prompts, empty, noise, steps, guidance))
        if progress is not None:
            progress(start + len(batch), count)
    return ImagePairs(torch.cat(kept), torch.cat(zeroed), numbers)


def spread_evenly(count: int, total: int) -> list[int]:
    """Returns `count` numbers of range(total), evenly spread."""
    return [round(k * total / count) % total for k in range(count)]


def sample_references(
    model: ForgetModel, prompts: list[EncodedPrompt], size: tuple[int, int, int], count: int, seed: int = 0
) -> torch.Tensor:
    """Samples pictures of the concept as latents (count, C, h, w), to serve as references where there are no images."""
    return sample_seeds(model, [prompts[n] for n in spread_evenly(count, len(prompts))], size, seed)
