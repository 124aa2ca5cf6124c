"""A plain sampler over the protocol, for pictures that the method needs of the model itself."""

from __future__ import annotations

import itertools

import torch

from .protocol import ForgetModel
from .tokens import EncodedPrompt
from .transfer import send

_BATCH = 4


def seeded_noise(size: tuple[int, int, int], seed: int) -> torch.Tensor:
    """The noise (C, h, w) of a seed: the same in any batch."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def sample_seeds(
    model: ForgetModel,
    prompts: list[EncodedPrompt],
    size: tuple[int, int, int],
    seed: int = 0,
    steps: int = 20,
    guidance: float = 3.0,
) -> torch.Tensor:
    """One picture of every prompt, seeds from `seed` on, a few at a time: latents (N, C, h, w), on the CPU."""
    [empty] = model.encode([""])
    parts = []
    for start in range(0, len(prompts), _BATCH):
        chosen = prompts[start : start + _BATCH]
        noise = torch.stack([seeded_noise(size, seed + start + k) for k in range(len(chosen))])
        parts.append(sample(model, chosen, empty, noise, steps, guidance))
    return torch.cat(parts)


def schedule(sigmas: torch.Tensor, steps: int) -> torch.Tensor:
    """Noise levels (steps + 1,), evenly spaced over the training timesteps, highest first, ending in 0."""
    chosen = [sigmas[len(sigmas) - 1 - int(k * len(sigmas) / steps)] for k in range(steps)]
    return torch.stack([*chosen, torch.zeros_like(sigmas[0])])


@torch.no_grad()
def sample(
    model: ForgetModel,
    prompts: list[EncodedPrompt],
    empty: EncodedPrompt,
    noise: torch.Tensor,
    steps: int,
    guidance: float,
) -> torch.Tensor:
    """Euler's method with classifier-free guidance: noise (B, C, h, w) of unit variance -> latents, on the CPU.

    One UNet call a step holds the prompts in its first half and the empty prompt in its second. Source: Karras et al.,
    Elucidating the Design Space of Diffusion-Based Generative Models, algorithm 2 without churn.
    """
    sigmas, noise = send(model.device, schedule(model.sigmas(), steps), noise)
    x = noise * (1 + sigmas[0] ** 2).sqrt()
    both = [*(prompt.to(model.device) for prompt in prompts), *[empty.to(model.device)] * len(prompts)]
    for sigma, following in itertools.pairwise(sigmas):
        positive, negative = model.denoise(torch.cat([x, x]), sigma.expand(2 * len(x)), both).float().chunk(2)
        x0 = negative + guidance * (positive - negative)
        x = x0 + (x - x0) * (following / sigma)
    return x.cpu()
