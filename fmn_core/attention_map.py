"""Where a phrase attends while a picture forms."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .hooks import attention_probe
from .model import CrossAttention, ForgetModel
from .tokens import EncodedPrompt


def euler_sigmas(sigmas: torch.Tensor, steps: int) -> torch.Tensor:
    """`steps` noise levels from the highest down, evenly spaced in timesteps, then 0."""
    index = torch.linspace(len(sigmas) - 1, 0, steps + 1).round().long()[:-1]
    return torch.cat([sigmas[index], torch.zeros(1)])


def concept_attention_map(
    model: ForgetModel,
    prompt: EncodedPrompt,
    columns: list[int],
    noise: torch.Tensor,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Samples a picture of the prompt and averages the attention to the columns.

    Euler steps without guidance from `noise` (1, C, h, w), standard normal. The probabilities are averaged over heads,
    columns summed, layers and the second half of the steps, every layer brought to the latent's grid. Returns the heat
    map (h, w), the final prediction of x0 (1, C, h, w), and the mean attention mass 0..1.
    """
    size, maps, masses, active = noise.shape[-2:], [], [], [False]

    def receive(layer: CrossAttention, probabilities: torch.Tensor) -> None:
        if active[0]:
            heat = probabilities[..., columns].sum(-1).mean((0, 1))
            masses.append(float(heat.mean()))
            maps.append(to_grid(heat, size))

    sigmas = euler_sigmas(model.sigmas(), steps).to(model.device)
    x, x0 = (noise * sigmas[0].cpu()).to(model.device), noise
    with attention_probe(model.cross_attention(), receive):
        for i in range(steps):
            active[0] = i >= steps // 2
            x0 = model.denoise(x, sigmas[i].reshape(1), [prompt])
            x = x0 + (x - x0) * (sigmas[i + 1] / sigmas[i])
            if progress is not None:
                progress(i + 1, steps)
    return torch.stack(maps).mean(0), x0.float().cpu(), sum(masses) / len(masses)


def to_grid(heat: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A layer's pixels (n,) laid out with the latent's aspect ratio and resized to (h, w)."""
    h, w = size
    factor = 1
    while -(-h // factor) * -(-w // factor) > heat.numel():
        factor *= 2
    grid = heat.float().cpu().reshape(1, 1, -(-h // factor), -(-w // factor))
    return torch.nn.functional.interpolate(grid, size=(h, w), mode="bilinear", align_corners=False)[0, 0]
