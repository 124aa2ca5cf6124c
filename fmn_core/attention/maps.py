"""Where the tokens of a prompt attend while a picture forms."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ..model.protocol import CrossAttention, ForgetModel
from ..model.sampler import euler, schedule
from ..model.tokens import EncodedPrompt
from .hooks import attention_probe

Receive = Callable[[CrossAttention, torch.Tensor], None]


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
    size, tokens = noise.shape[-2:], prompt.context.shape[0]
    heats, masses, count, step = torch.zeros(tokens, *size), torch.zeros(tokens), 0, 0

    def receive(layer: CrossAttention, probabilities: torch.Tensor) -> None:
        nonlocal count
        if step >= steps // 2:
            heat = probabilities.mean((0, 1)).float().cpu().T
            heats.add_(to_grid(heat, size))
            masses.add_(heat.mean(1))
            count += 1

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal step
        x0 = model.denoise(x, sigma.reshape(1), [prompt])
        step += 1
        if progress is not None:
            progress(step, steps)
        return x0

    sigmas, prompt = schedule(model.sigmas(), steps).to(model.device), prompt.to(model.device)
    x = (noise * sigmas[0].cpu()).to(model.device)
    with watch(receive) if watch is not None else attention_probe(model.cross_attention(), receive):
        x0 = euler(x, sigmas, predict)
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
