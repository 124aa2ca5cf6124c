"""Where the tokens of a prompt attend while a picture forms."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ..model.protocol import CrossAttention, ForgetModel
from ..model.tokens import EncodedPrompt
from .hooks import attention_probe

Receive = Callable[[CrossAttention, torch.Tensor], None]


def euler_sigmas(sigmas: torch.Tensor, steps: int) -> torch.Tensor:
    """`steps` noise levels from the highest down, evenly spaced in timesteps, then 0."""
    index = torch.linspace(len(sigmas) - 1, 0, steps + 1).round().long()[:-1]
    return torch.cat([sigmas[index], torch.zeros(1)])


@dataclass
class AttentionMaps:
    """`heats` (l, h, w): where each token attends; `masses` (l,): its mean attention, 0..1; `x0` (1, C, h, w): the picture."""

    heats: torch.Tensor
    masses: torch.Tensor
    x0: torch.Tensor


def attention_maps(
    model: ForgetModel,
    prompt: EncodedPrompt,
    noise: torch.Tensor,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Receive], AbstractContextManager] | None = None,
) -> AttentionMaps:
    """Samples a picture of the prompt and averages the attention to each of its tokens.

    Euler steps without guidance from `noise` (1, C, h, w), standard normal. The probabilities are averaged over heads,
    layers and the second half of the steps, every layer brought to the latent's grid. `watch` hands them to a function
    while it is open; without it they are the attention_probe's.
    """
    size, active = noise.shape[-2:], [False]
    tokens = prompt.context.shape[0]
    heats, masses, count = torch.zeros(tokens, *size), torch.zeros(tokens), 0

    def receive(layer: CrossAttention, probabilities: torch.Tensor) -> None:
        nonlocal count
        if active[0]:
            heat = probabilities.mean((0, 1)).float().cpu().T
            heats.add_(to_grid(heat, size))
            masses.add_(heat.mean(1))
            count += 1

    sigmas, prompt = euler_sigmas(model.sigmas(), steps).to(model.device), prompt.to(model.device)
    x, x0 = (noise * sigmas[0].cpu()).to(model.device), noise
    with watch(receive) if watch is not None else attention_probe(model.cross_attention(), receive):
        for i in range(steps):
            active[0] = i >= steps // 2
            x0 = model.denoise(x, sigmas[i].reshape(1), [prompt])
            x = x0 + (x - x0) * (sigmas[i + 1] / sigmas[i])
            if progress is not None:
                progress(i + 1, steps)
    return AttentionMaps(heats / count, masses / count, x0.float().cpu())


def to_grid(heat: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A layer's pixels (..., n) laid out with the latent's aspect ratio and resized to (..., h, w)."""
    h, w = size
    factor = 1
    while -(-h // factor) * -(-w // factor) > heat.shape[-1]:
        factor *= 2
    grid = heat.float().cpu().reshape(1, -1, -(-h // factor), -(-w // factor))
    resized = torch.nn.functional.interpolate(grid, size=(h, w), mode="bilinear", align_corners=False)
    return resized.reshape(*heat.shape[:-1], h, w)
