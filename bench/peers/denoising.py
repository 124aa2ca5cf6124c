"""Shared by the peers that train: partly denoised latents, and the error of a prediction."""

from __future__ import annotations

from typing import Any

import torch

from fmn_core.model.sampler import euler, schedule


@torch.no_grad()
def partly_sampled(
    adapter: Any, prompt: Any, empty: Any, steps: int, done: int, guidance: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t (1, C, h, w) after `done` of `steps` steps from noise, and its sigma (1,).

    Euler's method, which for these predictions is DDIM with eta 0.
    """
    sigmas = schedule(adapter.sigmas(), steps).to(adapter.device)
    noise = torch.randn(1, *adapter.latent_shape(), generator=generator)
    x = noise.to(adapter.device) * (1 + sigmas[0] ** 2).sqrt()

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        named, none = predicted(adapter, x, sigma.view(1), [prompt, empty]).chunk(2)
        return none + guidance * (named - none)

    return euler(x, sigmas[: done + 1], predict), sigmas[done].view(1)


def predicted(adapter: Any, x: torch.Tensor, sigma: torch.Tensor, prompts: list[Any]) -> torch.Tensor:
    """x0 for every prompt, of one x (1, C, h, w) for all of them or one for each."""
    sigma = sigma.to(adapter.device).expand(len(prompts))
    return adapter.denoise(x.to(adapter.device).expand(len(prompts), -1, -1, -1), sigma, prompts).float()


def predicts_velocity(adapter: Any) -> bool:
    """Whether the network's own output is v, rather than eps."""
    if hasattr(adapter, "pipeline"):
        return adapter.pipeline.scheduler.config.prediction_type == "v_prediction"
    return adapter.patcher.model.model_type.name == "V_PREDICTION"


def output_error(adapter: Any, got: torch.Tensor, wanted: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the network's own output, from two x0 predicted of the same x (B, C, h, w) at sigma (B,) or (1,).

    eps = (x - x0) / sigma, so |d eps|^2 = |d x0|^2 / sigma^2; v = (x / (1 + sigma^2) - x0) sqrt(1 + sigma^2) / sigma, so
    |d v|^2 = |d x0|^2 (1 + 1 / sigma^2). The methods' losses are on what the network was trained to give: eps for SD 1.x, v
    for v-prediction, where at zero terminal SNR a loss on eps would weigh nothing (1 / sigma^2 = 5e-8 at the last timestep).
    """
    weight = 1 / sigma.to(got) ** 2 + (1 if predicts_velocity(adapter) else 0)
    return (weight.view(-1, 1, 1, 1) * (got - wanted) ** 2).mean()
