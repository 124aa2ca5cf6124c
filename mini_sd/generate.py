"""Generates with a MODEL, CLIP and VAE of the host inside this process, many prompts in one batch."""

from __future__ import annotations

import torch

STEPS, GUIDANCE, SAMPLER, SCHEDULER = 20, 3.0, "euler", "simple"
BATCH = 32


def noise_of(seed: int, size: int = 16) -> torch.Tensor:
    """The initial noise of a seed, (4, size, size): a seed gives the same noise in any batch."""
    return torch.randn(4, size, size, generator=torch.Generator().manual_seed(seed))


def encode(clip, prompts: list[str]) -> torch.Tensor:
    """Conditioning of each prompt, (B, 77, dim)."""
    known: dict[str, torch.Tensor] = {}
    for prompt in prompts:
        if prompt not in known:
            known[prompt] = clip.encode_from_tokens(clip.tokenize(prompt))
    return torch.cat([known[p] for p in prompts])


@torch.inference_mode()
def generate(
    model,
    clip,
    vae,
    prompts: list[str],
    seeds: list[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    extra=None,
    conditions=None,
):
    """One image per (prompt, seed), IMAGE (B, 128, 128, 3) in 0..1, with the host's own sampler.

    `extra`: entries for the positive conditioning, as nodes attach them. `conditions`: makes of the positive and negative
    conditioning what is sampled with.
    """
    import comfy.sample

    images = []
    for start in range(0, len(prompts), BATCH):
        part, numbers = prompts[start : start + BATCH], seeds[start : start + BATCH]
        noise = torch.stack([noise_of(s) for s in numbers])
        positive = [[encode(clip, part), dict(extra or {})]]
        negative = [[encode(clip, [""] * len(part)), {}]]
        if conditions is not None:
            positive, negative = conditions(positive, negative)
        latent = comfy.sample.sample(
            model,
            noise,
            steps,
            guidance,
            SAMPLER,
            SCHEDULER,
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
        )
        images.append(vae.decode(latent))
    return torch.cat(images)
