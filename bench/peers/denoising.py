"""Partly denoised latents and the error of a prediction, for the peers that train."""

from __future__ import annotations

from typing import Any

import torch

from fmn_core.model.sampler import euler, schedule


@torch.no_grad()
def partly_sampled(
    adapter: Any, prompt: Any, empty: Any, steps: int, done: int, guidance: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latent x_t after the first `done` of `steps` sampling steps from noise.

    Returns
    -------
    x, sigma
        x_t (1, C, h, w) and its noise level (1,).

    Notes
    -----
    Euler's method, which equals DDIM with eta 0 for these predictions.
    """
    sigmas = schedule(adapter.sigmas(), steps).to(adapter.device)
    noise = torch.randn(1, *adapter.latent_shape(), generator=generator)
    x = noise.to(adapter.device) * (1 + sigmas[0] ** 2).sqrt()

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        named, none = predicted(adapter, x, sigma.view(1), [prompt, empty]).chunk(2)
        return none + guidance * (named - none)

    return euler(x, sigmas[: done + 1], predict), sigmas[done].view(1)


def predicted(adapter: Any, x: torch.Tensor, sigma: torch.Tensor, prompts: list[Any]) -> torch.Tensor:
    """Predicted x0 (B, C, h, w) for B prompts, from one x (1, C, h, w) or one for each prompt."""
    sigma = sigma.to(adapter.device).expand(len(prompts))
    return adapter.denoise(x.to(adapter.device).expand(len(prompts), -1, -1, -1), sigma, prompts).float()


def predicts_flow(adapter: Any) -> bool:
    """Whether the network's output is e - x0 at x_t = (1 - t) x0 + t e, which is x / (1 + sigma) at sigma = t / (1 - t)."""
    return hasattr(adapter, "patcher") and adapter.patcher.model.model_type.name in ("FLOW", "FLUX")


def predicts_velocity(adapter: Any) -> bool:
    """Whether the network's output is v, not eps."""
    if hasattr(adapter, "pipeline"):
        return adapter.pipeline.scheduler.config.prediction_type == "v_prediction"
    return adapter.patcher.model.model_type.name == "V_PREDICTION"


def output_error(adapter: Any, x0: torch.Tensor, target_x0: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the network's output (eps, v or flow), from two predictions x0 (B, C, h, w) of the same x.

    Parameters
    ----------
    sigma
        Noise level, (B,) or (1,).

    Notes
    -----
    eps = (x - x0) / sigma, so |d eps|^2 = |d x0|^2 / sigma^2; v = (x / (1 + sigma^2) - x0) sqrt(1 + sigma^2) / sigma,
    so |d v|^2 = |d x0|^2 (1 + 1 / sigma^2); of a flow at t, |d flow|^2 = |d x0|^2 / t^2. The published losses are on the quantity that the network was trained to
    predict: eps for SD 1.x, v for v-prediction. With zero terminal SNR, a loss on eps would weigh the last timestep by
    1 / sigma^2 = 5e-8, which is nothing.
    """
    if predicts_flow(adapter):
        weight = (1 + 1 / sigma.to(x0)) ** 2
    else:
        weight = 1 / sigma.to(x0) ** 2 + (1 if predicts_velocity(adapter) else 0)
    return (weight.view(-1, 1, 1, 1) * (x0 - target_x0) ** 2).mean()
