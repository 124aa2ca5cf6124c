"""Generates with a MODEL, CLIP and VAE of the host inside this process, many prompts in one batch."""

from __future__ import annotations

import torch

STEPS, GUIDANCE, SAMPLER, SCHEDULER = 20, 3.0, "euler", "simple"
BATCH = 32


def noise_of(seed: int, size: int = 16, channels: int = 4) -> torch.Tensor:
    """The initial noise of a seed, (channels, size, size): a seed gives the same noise in any batch."""
    return torch.randn(channels, size, size, generator=torch.Generator().manual_seed(seed))


def encode(clip, prompts: list[str]) -> list:
    """Conditioning of all prompts in one batch, with contexts (B, tokens, dim) and pooled vectors (B, dim)."""
    known = {prompt: clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True) for prompt in set(prompts)}
    contexts, pooled = zip(*(known[prompt] for prompt in prompts))
    return [torch.cat(contexts), {"pooled_output": torch.cat(pooled)}]


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

    images, channels = [], model.get_model_object("latent_format").latent_channels
    for start in range(0, len(prompts), BATCH):
        part, numbers = prompts[start : start + BATCH], seeds[start : start + BATCH]
        noise = torch.stack([noise_of(s, channels=channels) for s in numbers])
        context, pooled = encode(clip, part)
        positive, negative = [[context, {**pooled, **(extra or {})}]], [encode(clip, [""] * len(part))]
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
