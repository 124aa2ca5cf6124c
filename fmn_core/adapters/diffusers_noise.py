"""Noise levels of the schedulers of diffusers."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ForgetError

_PREDICTIONS = ("epsilon", "v_prediction")
# Beta schedules: the root of beta that is spaced linearly.
_POWERS = {"linear": 1, "scaled_linear": 2}
# With zero terminal SNR the last cumulative alpha is 0. It becomes that of ComfyUI, where the last sigma is 4519.
_LEAST_ALPHA = 4.8973451890853435e-08
_TINY_ALPHA = 1e-7
SUPPORTED = "Load a StableDiffusionPipeline or StableDiffusionXLPipeline (SD 1.x, 2.x or XL)."


def noise_levels(scheduler: Any) -> torch.Tensor:
    """Sigma (T,) of every training timestep, in float32. Raises ForgetError on flow matching and unknown predictions."""
    prediction = scheduler.config.get("prediction_type")
    if getattr(scheduler, "alphas_cumprod", None) is None or prediction not in _PREDICTIONS:
        raise ForgetError(
            f"Expected a scheduler for {' or '.join(_PREDICTIONS)}, got {type(scheduler).__name__} ({prediction}). {SUPPORTED}"
        )
    exact = _exact_alphas(scheduler.config)
    alphas = scheduler.alphas_cumprod.detach().cpu().double() if exact is None else exact
    alphas = alphas.where(alphas > _TINY_ALPHA, _LEAST_ALPHA)
    return ((1 - alphas) / alphas).sqrt().float()


def _exact_alphas(config: Any) -> torch.Tensor | None:
    """Cumulative alphas (T,) in float64 of a linear or scaled linear schedule; None for other schedules.

    Notes
    -----
    The scheduler's own alphas are rounded in single precision, and Adam's first steps turn the last digits of a sigma into a
    tenth of a weight's change. The rescaling to zero terminal SNR is Algorithm 1 of Lin et al., arXiv 2305.08891.
    """
    power = _POWERS.get(config.get("beta_schedule"))
    if power is None or config.get("trained_betas") is not None:
        return None
    first, last, count = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    roots = torch.linspace(first ** (1 / power), last ** (1 / power), count, dtype=torch.float64)
    alphas = (1 - roots**power).cumprod(0)
    if config.get("rescale_betas_zero_snr", False):
        signal = alphas.sqrt()
        alphas = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    return alphas
