"""Sampling with Euler's method, for pictures and statistics of the model itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from .protocol import ForgetModel
from .tokens import EncodedPrompt
from .transfer import send

_BATCH = 4
# Scale of classifier-free guidance where nothing else is chosen.
GUIDANCE = 3.0


def seeded_noise(shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Standard normal noise (C, h, w) that depends on the seed alone, not on the batch."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def schedule(sigmas: torch.Tensor, steps: int) -> torch.Tensor:
    """Noise levels (steps + 1,), evenly spaced over the training timesteps, from the highest to 0."""
    levels = [sigmas[len(sigmas) - 1 - int(k * len(sigmas) / steps)] for k in range(steps)]
    return torch.stack([*levels, torch.zeros_like(sigmas[0])])


def euler(
    x: torch.Tensor, sigmas: torch.Tensor, predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Integrates the probability-flow ODE along the noise levels with Euler's method.

    Parameters
    ----------
    x
        Latents (B, C, h, w) at the noise level `sigmas[0]`.
    sigmas
        Decreasing noise levels (steps + 1,) on the device of `x`; only the last may be 0.
    predict
        Maps the latents and the noise level, a scalar, to the predicted x0.

    Returns
    -------
    Latents at the last noise level.

    Notes
    -----
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, algorithm 2 without churn.
    """
    for sigma, following in itertools.pairwise(sigmas):
        x0 = predict(x, sigma)
        x = x0 + (x - x0) * (following / sigma)
    return x


@torch.no_grad()
def sample(
    model: ForgetModel,
    prompts: list[EncodedPrompt],
    empty: EncodedPrompt,
    noise: torch.Tensor,
    steps: int,
    guidance: float,
) -> torch.Tensor:
    """Samples a picture of every prompt with classifier-free guidance.

    Parameters
    ----------
    prompts
        B prompts with contexts of one length.
    empty
        The prompt that guidance leads away from, usually the empty prompt.
    noise
        Standard normal noise (B, C, h, w).
    steps
        Number of sampling steps. Each is one UNet pass of 2B latents: first those of the prompts, then those of the empty prompt.
    guidance
        Scale of classifier-free guidance; 1 is none.

    Returns
    -------
    Latents (B, C, h, w) on the CPU.
    """
    sigmas, noise = send(model.device, schedule(model.sigmas(), steps), noise)
    positive_and_negative = [*(prompt.to(model.device) for prompt in prompts), *[empty.to(model.device)] * len(prompts)]

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        positive, negative = (
            model.denoise(torch.cat([x, x]), sigma.expand(2 * len(x)), positive_and_negative).float().chunk(2)
        )
        return negative + guidance * (positive - negative)

    return euler(noise * (1 + sigmas[0] ** 2).sqrt(), sigmas, predict).cpu()


def sample_seeds(
    model: ForgetModel,
    prompts: list[EncodedPrompt],
    size: tuple[int, int, int],
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
) -> torch.Tensor:
    """Samples one picture of every prompt, each with a seed of its own.

    Parameters
    ----------
    prompts
        N prompts with contexts of one length. They are sampled 4 at a time.
    size
        Shape (C, h, w) of a latent.
    seed
        Seed of the first picture's noise; every next picture has the next seed.
    guidance
        Scale of classifier-free guidance; None: the model's own.

    Returns
    -------
    Latents (N, C, h, w) on the CPU.
    """
    [empty], scale = model.encode([""]), model.guidance if guidance is None else guidance
    latents = []
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        noise = torch.stack([seeded_noise(size, seed + start + k) for k in range(len(batch))])
        latents.append(sample(model, batch, empty, noise, steps, scale))
    return torch.cat(latents)
