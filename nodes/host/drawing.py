"""Draws pictures with a MODEL, CLIP and VAE, as the host's own sampler and encoders do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import torch

from ...fmn_core.errors import ForgetError
from .execution import check_interrupted, step_counter
from .families import native_latent_side

# Pixels beside one latent.
_SCALE = 8


@dataclass(frozen=True)
class Drawing:
    """Settings of pictures; width and height in pixels, multiples of 8, or 0 for the size that the model was trained on."""

    steps: int = 20
    cfg: float = 5.0
    sampler_name: str = "euler"
    scheduler: str = "simple"
    width: int = 0
    height: int = 0
    negative: str = ""


def samplers() -> list[str]:
    """Names of the host's samplers."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    """Names of the host's schedulers."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def check_vae(patcher: Any, vae: Any) -> None:
    """Raises ForgetError where a VAE decodes latents of another number of channels than a MODEL's."""
    expected = patcher.model.latent_format.latent_channels
    got = getattr(vae, "latent_channels", expected)
    if got != expected:
        raise ForgetError(
            f"Expected the VAE that belongs to the MODEL, with {expected} latent channels, got one with {got}. Connect the model's own."
        )


def draw(models: list[Any], clip: Any, vae: Any, jobs: list[tuple[str, int]], drawing: Drawing) -> list[torch.Tensor]:
    """Draws every job with every MODEL.

    Parameters
    ----------
    models
        MODELs that share the CLIP and the VAE.
    jobs
        Prompt and seed of each picture.

    Returns
    -------
    list of torch.Tensor
        One IMAGE (number of jobs, height, width, 3), 0..1, for each MODEL.
    """
    for model in models:
        check_vae(model, vae)
    known: dict[str, Any] = {}
    for text in dict.fromkeys([drawing.negative, *(prompt for prompt, _ in jobs)]):
        check_interrupted()
        known[text] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    count_step, pictures = step_counter(drawing.steps * len(jobs) * len(models)), []
    for model in models:
        latents = (_sample(model, known[p], known[drawing.negative], seed, drawing, count_step) for p, seed in jobs)
        pictures.append(torch.cat([_still(vae.decode(latent)) for latent in latents]))
    return pictures


def _sample(model: Any, positive: Any, negative: Any, seed: int, drawing: Drawing, count_step: Any) -> torch.Tensor:
    native = native_latent_side(model, positive[0][0].shape[-1])
    height, width = (pixels // _SCALE or native for pixels in (drawing.height, drawing.width))
    latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, height, width))
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        drawing.steps,
        drawing.cfg,
        drawing.sampler_name,
        drawing.scheduler,
        positive,
        negative,
        latent,
        callback=lambda step, x0, x, steps: count_step(),
        disable_pbar=True,
        seed=seed,
    )


def _still(images: torch.Tensor) -> torch.Tensor:
    """IMAGE (1, H, W, 3) on the CPU; VAEs of videos give one more dimension."""
    images = images[:, 0] if images.ndim == 5 else images
    return images.detach().cpu().float().clamp(0, 1)
