"""What the training nodes make of a concept's images: checked, augmented, encoded, and kept in the cache."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..fmn_core.augment import AugmentSettings, augment
from ..fmn_core.cache import Cache, CachedEncoding, content_key, model_key
from ..fmn_core.concept import Concept
from ..fmn_core.errors import ForgetError
from ..fmn_core.gradient import concept_prompts
from ..fmn_core.references import Pairs, References, make_pairs
from . import host
from .comfy_model import ComfyModel


def cache() -> Cache:
    """The pack's cache, under the host's temp folder."""
    return Cache(host.cache_folder())


def with_cache(adapter: ComfyModel) -> Any:
    """The adapter with text embeddings that are computed once and kept in the cache."""
    return CachedEncoding(adapter, cache())


def references_of(adapter: ComfyModel, vae: Any, concept: Concept, settings: AugmentSettings, seed: int) -> References:
    """Latents of a concept's images, or one zero latent at the model's native size (`no_real_image`)."""
    if concept.images is None:
        size = adapter.native_latent_size()
        return References(torch.zeros(1, adapter.latent_channels(), size, size))
    if vae is None:
        raise ForgetError("Expected a VAE to encode the images, got none. Connect a VAE, or disconnect the images.")
    images, masks = augment(check_images(concept.images), concept.masks, settings, seed)
    key = content_key("latents", images, host.vae_key(vae), adapter.latent_scale())
    latents = cache().remember(key, lambda: {"latents": adapter.encode_images(vae, images)})["latents"]
    return References(latents, masks)


def check_images(images: torch.Tensor) -> torch.Tensor:
    """IMAGE (N, H, W, 3); raises ForgetError when it is empty, smaller than 8 pixels or not RGB."""
    if images.ndim != 4 or images.shape[0] == 0 or min(images.shape[1:3]) < 8 or images.shape[-1] < 3:
        raise ForgetError(
            f"Expected RGB images of at least 8 x 8 pixels, got {list(images.shape)}. Connect other images."
        )
    return images[..., :3]


def pairs_of(adapter: ComfyModel, concept: Concept, count: int, steps: int, guidance: float, seed: int) -> Pairs:
    """Pairs for the visual denoising loss, made by the model itself or taken from the cache."""
    prompts, size = concept_prompts(adapter, concept), adapter.native_latent_size()
    shape = (adapter.latent_channels(), size, size)
    numbers = [count, steps, guidance, seed]
    key = content_key(
        "pairs", model_key(adapter), [p.context for p in prompts.encoded], prompts.columns, list(shape), numbers
    )
    bar = host.Progress(count)

    def make() -> dict[str, torch.Tensor]:
        made = make_pairs(
            adapter,
            prompts.encoded,
            prompts.columns,
            shape,
            count,
            steps,
            guidance,
            seed,
            lambda d, t: bar.update(d, t),
        )
        return {"kept": made.kept, "zeroed": made.zeroed, "prompts": torch.tensor(made.prompts)}

    found = cache().remember(key, make)
    return Pairs(found["kept"], found["zeroed"], found["prompts"].tolist())


def joined(chained: Any, concept: Concept | None) -> list[Concept]:
    """The concepts of a chain and the node's own; raises ForgetError when there are none."""
    concepts = [*(chained or ()), *([concept] if concept is not None else [])]
    if not concepts:
        raise ForgetError("Expected something to forget, got nothing. Type a phrase, or connect a Concept.")
    return [dataclasses.replace(c) for c in concepts]
