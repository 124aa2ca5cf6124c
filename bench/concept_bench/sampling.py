"""Samples pictures of a checkpoint with the host's sampler, as KSampler does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mini_sd.generate import noise_of

SAMPLER, SCHEDULER, BATCH = "euler", "normal", 4


@torch.inference_mode()
def pictures(
    model: Any,
    clip: Any,
    vae: Any,
    prompts: list[str],
    seeds: list[int],
    size: int,
    steps: int,
    guidance: float,
    conditions: Callable[[Any, Any], tuple[Any, Any]] | None = None,
) -> torch.Tensor:
    """One picture for each prompt and seed.

    Parameters
    ----------
    size
        Width and height in pixels.
    conditions
        Changes the positive and negative conditioning before sampling.

    Returns
    -------
    torch.Tensor
        uint8 (B, size, size, 3). A seed gives the same noise in any batch.
    """
    import comfy.sample

    # All texts, then all latents, then all pictures, because a GPU may hold only one of the three networks.
    encoded = {p: clip.encode_from_tokens(clip.tokenize(p), return_pooled=True) for p in dict.fromkeys(["", *prompts])}
    latents = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        noise = torch.stack([noise_of(s, size // 8) for s in seeds[start : start + BATCH]])
        positive = _conditioning([encoded[p] for p in batch])
        negative = _conditioning([encoded[""]] * len(batch))
        if conditions is not None:
            positive, negative = conditions(positive, negative)
        setting = model, noise, steps, guidance, SAMPLER, SCHEDULER, positive, negative, torch.zeros_like(noise)
        latents.append(comfy.sample.sample(*setting, disable_pbar=True))
    decoded = [vae.decode(latent) for latent in latents]
    return torch.cat([(d.clamp(0, 1) * 255).round().to("cpu", torch.uint8) for d in decoded])


def _conditioning(encoded: list[tuple[torch.Tensor, torch.Tensor | None]]) -> list[list[Any]]:
    """CONDITIONING of a batch of encoded prompts, with the pooled output that SDXL needs."""
    contexts, pooled = zip(*encoded)
    return [[torch.cat(contexts), {} if pooled[0] is None else {"pooled_output": torch.cat(pooled)}]]
