"""Attention maps of a prompt's tokens, averaged while a picture is sampled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ..model.layers import UNET_BLOCKS
from ..model.protocol import CrossAttention, ForgetModel
from ..model.sampler import euler, schedule
from ..model.tokens import EncodedPrompt
from .hooks import attention_probe

Receive = Callable[[CrossAttention, torch.Tensor], None]


@dataclass
class AttentionMaps:
    """Attention maps of a prompt's tokens, and the picture.

    Parameters
    ----------
    heats
        Attention to each token where it is finest, (l, h, w), 0..1.
    masses
        Mean attention to each token in all layers, (l,), 0..1.
    x0
        The picture's latent, (1, C, h, w).
    """

    heats: torch.Tensor
    masses: torch.Tensor
    x0: torch.Tensor


def attention_maps(
    model: ForgetModel,
    prompt: EncodedPrompt,
    noise: torch.Tensor,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
    probe: Callable[[Receive], AbstractContextManager] | None = None,
) -> AttentionMaps:
    """Samples a picture of the prompt and averages the attention to each of its tokens.

    Parameters
    ----------
    noise
        Standard normal, (1, C, h, w).
    steps
        Euler steps, without guidance.
    progress
        Called as progress(step, steps).
    probe
        Opens a context in which every layer's probabilities go to the function it is given; attention_probe where left out.

    Notes
    -----
    The probabilities are averaged over heads, layers and the second half of the steps. Heats are those of the layers with most
    pixels among the up blocks, resized to the latent's grid: coarser ones, and those of the down blocks, blur the outlines.
    """
    layers, size, tokens = model.cross_attention(), noise.shape[-2:], prompt.context.shape[0]
    names = {layer.name for layer in layers}
    outlining = {name for name in names if name.startswith(UNET_BLOCKS["up"])} or names
    # Sums and counts of heats by the number of pixels of their layers.
    sums: dict[int, torch.Tensor] = {}
    counts: dict[int, int] = {}
    masses, count, step = torch.zeros(tokens), 0, 0

    def receive(layer: CrossAttention, probabilities: torch.Tensor) -> None:
        nonlocal count
        if step >= steps // 2:
            heat = probabilities.mean((0, 1)).float().cpu().T
            masses.add_(heat.mean(1))
            count += 1
            if layer.name in outlining:
                pixels = heat.shape[1]
                sums.setdefault(pixels, torch.zeros(tokens, *size)).add_(to_grid(heat, size))
                counts[pixels] = counts.get(pixels, 0) + 1

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal step
        x0 = model.denoise(x, sigma.reshape(1), [prompt])
        step += 1
        if progress is not None:
            progress(step, steps)
        return x0

    sigmas, prompt = schedule(model.sigmas(), steps).to(model.device), prompt.to(model.device)
    x = (noise * sigmas[0].cpu()).to(model.device)
    with probe(receive) if probe is not None else attention_probe(layers, receive):
        x0 = euler(x, sigmas, predict)
    finest = max(sums)
    return AttentionMaps(sums[finest] / counts[finest], masses / count, x0.float().cpu())


def to_grid(heat: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Arranges a layer's pixels (..., n) in the latent's aspect ratio and resizes them to (..., h, w)."""
    h, w = size
    factor = 1
    while -(-h // factor) * -(-w // factor) > heat.shape[-1]:
        factor *= 2
    grid = heat.float().cpu().reshape(1, -1, -(-h // factor), -(-w // factor))
    resized = torch.nn.functional.interpolate(grid, size=(h, w), mode="bilinear", align_corners=False)
    return resized.reshape(*heat.shape[:-1], h, w)
