"""What the training nodes make of a concept's images: checked, augmented, encoded, and kept in the cache."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ...fmn_core.attention.masks import check_mask
from ...fmn_core.concepts.concept import Concept, chain
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.content_key import content_key, model_key
from ...fmn_core.model.encoding_cache import CachedEncoding
from ...fmn_core.model.memory_cache import Cache
from ...fmn_core.training.augmentation import AugmentSettings, augment
from ...fmn_core.training.references import ImagePairs, References, made_latents, make_pairs
from ...fmn_core.training.trainer import concept_prompts
from .. import host
from ..ui.mask_overlay import check_images
from .model import ComfyModel
from .text import ComfyText

_shared_cache = Cache()


def cache() -> Cache:
    """The cache of this process: encoded images, pairs and prompts. In memory, where no upload and no other user reaches it."""
    return _shared_cache


def with_cache(adapter: ComfyText) -> Any:
    """The adapter with text embeddings that are computed once and kept in the cache."""
    return CachedEncoding(adapter, cache())


def references_of(
    adapter: ComfyModel, vae: Any, concept: Concept, settings: AugmentSettings, seed: int, own_images: int = 0
) -> References:
    """Latents of a concept's images; without images, of pictures the model makes itself, or one zero latent (`no_real_image`)."""
    if concept.images is None:
        checked_masks(concept.masks, None)
        shape = adapter.latent_shape()
        return References(
            _own_latents(adapter, concept, shape, own_images, seed) if own_images else torch.zeros(1, *shape)
        )
    if vae is None:
        raise ForgetError("Expected a VAE to encode the images, got none. Connect a VAE, or disconnect the images.")
    images = checked_images(concept.images)
    images, masks = augment(images, checked_masks(concept.masks, images), settings, seed)
    key = content_key("latents", images, host.vae_key(vae), adapter.latent_scale())
    latents = cache().remember(key, lambda: {"latents": adapter.encode_images(images, vae)})["latents"]
    return References(latents, masks)


def _own_latents(
    adapter: ComfyModel, concept: Concept, shape: tuple[int, int, int], count: int, seed: int
) -> torch.Tensor:
    prompts = concept_prompts(adapter, concept).encoded
    host.load(adapter.patcher)
    key = content_key("own images", model_key(adapter), [p.context for p in prompts], list(shape), [count, seed])
    with torch.no_grad():
        return cache().remember(key, lambda: {"latents": made_latents(adapter, prompts, shape, count, seed=seed)})[
            "latents"
        ]


def checked_images(images: torch.Tensor) -> torch.Tensor:
    """IMAGE without alpha, in 0..1, as tensors that autograd accepts; raises ForgetError on images that cannot be used."""
    images = check_images(images[..., :3] if images.shape[-1] == 4 else images)
    if not torch.isfinite(images).all():
        raise ForgetError("Expected images with values from 0 to 1, got some that are not numbers. Make them anew.")
    return images.detach().to("cpu", torch.float32).clone().clamp_(0, 1)


def checked_masks(mask: torch.Tensor | None, images: torch.Tensor | None) -> torch.Tensor | None:
    """One mask, or one for each picture; raises ForgetError on another number, and on one with nothing in it."""
    if mask is None:
        return None
    if images is None:
        raise ForgetError("Expected images for the mask, got none. Connect the images, or disconnect the mask.")
    masks = check_mask(mask.detach().to("cpu", copy=True))
    if len(masks) not in (1, len(images)):
        raise ForgetError(
            f"Expected one mask, or one for each of {len(images)} images, got {len(masks)}. Connect as many masks as images."
        )
    for number, one in enumerate(masks, 1):
        if one.max() <= 0:
            raise ForgetError(
                f"Expected something in every mask, got zeros only in mask {number}. Paint it, or leave that picture out."
            )
    return masks


def pairs_of(adapter: ComfyModel, concept: Concept, count: int, steps: int, guidance: float, seed: int) -> ImagePairs:
    """Pairs for the visual denoising loss, made by the model itself or taken from the cache."""
    prompts, shape = concept_prompts(adapter, concept), adapter.latent_shape()
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
    return ImagePairs(found["kept"], found["zeroed"], found["prompts"].tolist())


def joined(previous: Any, concept: Concept | None) -> list[Concept]:
    """The concepts of a chain and the node's own; raises ForgetError when there are none, and when one comes twice."""
    concepts = chain(previous, [concept] if concept is not None else [])
    if not concepts:
        raise ForgetError("Expected something to forget, got nothing. Type a phrase, or connect a Concept.")
    return [dataclasses.replace(c) for c in concepts]
