"""Reference latents of a concept, the masks that go with them, and pairs that the model itself makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..attention.hooks import scaled_columns
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.sampler import sample, sample_seeds, seeded_noise
from ..model.tokens import EncodedPrompt

# Sampling of image pairs, where nothing else is chosen.
PAIR_STEPS, PAIR_GUIDANCE = 20, 3.0
_BATCH = 4


@dataclass
class References:
    """What a concept is trained on: latents (N, C, h, w) in the model's scale; masks (N, H, W) in 0..1 at image size."""

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
    """Same seed and prompt, attention kept and zeroed: latents (N, C, h, w), and the number of each pair's prompt."""

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
    """Samples pairs: x0 with the model's attention, x~0 with the attention of the concept's columns zeroed.

    `columns`: the columns of each prompt. `size`: (C, h, w) of the latents. Prompts come in turn, seeds from `seed` on.
    Source: FMN, section 3.3 (visual denoising loss).
    """
    if not prompts:
        raise ForgetError("Expected prompts to make pairs with, got none. Name the concept.")
    numbers = spread(count, len(prompts))
    [empty] = model.encode([""])
    kept, zeroed = [], []
    for start in range(0, count, _BATCH):
        part = numbers[start : start + _BATCH]
        chosen = [prompts[n] for n in part]
        noise = torch.stack([seeded_noise(size, seed + start + k) for k in range(len(part))])
        kept.append(sample(model, chosen, empty, noise, steps, guidance))
        weight = torch.zeros(2 * len(part), chosen[0].context.shape[0])
        for row, n in enumerate(part):
            weight[row, columns[n]] = 1
        with scaled_columns(model.cross_attention(), weight):
            zeroed.append(sample(model, chosen, empty, noise, steps, guidance))
        if progress is not None:
            progress(start + len(part), count)
    return ImagePairs(torch.cat(kept), torch.cat(zeroed), numbers)


def spread(count: int, total: int) -> list[int]:
    """`count` numbers spread over range(total)."""
    return [round(k * total / count) % total for k in range(count)]


def made_latents(
    model: ForgetModel, prompts: list[EncodedPrompt], size: tuple[int, int, int], count: int, seed: int = 0
) -> torch.Tensor:
    """Pictures of the concept that the model makes itself, as latents (count, C, h, w): references without images."""
    return sample_seeds(model, [prompts[n] for n in spread(count, len(prompts))], size, seed)
