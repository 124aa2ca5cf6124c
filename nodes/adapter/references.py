"""Checks, augments and encodes a concept's images, and keeps latents and image pairs in a cache."""

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
from ...fmn_core.training.concept_prompts import concept_prompts
from ...fmn_core.training.references import ImagePairs, References, make_pairs, sample_references
from .. import host
from ..ui.mask_overlay import check_images
from .text import ComfyText
from .transformer import TrainedModel

_shared_cache = Cache()


def shared_cache() -> Cache:
    """The process's cache of encoded images, pairs and prompts: in memory, where no upload and no other user can reach it."""
    return _shared_cache


def with_cache(adapter: ComfyText) -> Any:
    """Returns the adapter with an `encode` that keeps its text embeddings in the shared cache."""
    return CachedEncoding(adapter, shared_cache())


def encode_references(
    adapter: TrainedModel, vae: Any, concept: Concept, settings: AugmentSettings, seed: int, own_images: int = 0
) -> References:
    """Encodes a concept's images into latents.

    Parameters
    ----------
    own_images
        Number of pictures that the model draws where the concept has no images; 0 gives one latent of zeros.

    Raises
    ------
    ForgetError
        Images without a VAE, masks without images, or images or masks that cannot be used.
    """
    if concept.images is None:
        checked_masks(concept.masks, None)
        shape = adapter.latent_shape()
        return References(
            _drawn_latents(adapter, concept, shape, own_images, seed) if own_images else torch.zeros(1, *shape)
        )
    if vae is None:
        raise ForgetError("Expected a VAE to encode the images, got none. Connect a VAE, or disconnect the images.")
    images = checked_images(concept.images)
    images, masks = augment(images, checked_masks(concept.masks, images), settings, seed)
    key = content_key("latents", images, host.vae_key(vae), adapter.latent_scale())
    latents = shared_cache().remember(key, lambda: {"latents": adapter.encode_images(images, vae)})["latents"]
    return References(latents, masks)


def _drawn_latents(
    adapter: TrainedModel, concept: Concept, shape: tuple[int, int, int], count: int, seed: int
) -> torch.Tensor:
    """Latents (count, C, h, w) of pictures of the concept that the model draws."""
    prompts = concept_prompts(adapter, concept).encoded
    host.load(adapter.patcher)
    key = content_key("own images", model_key(adapter), [p.context for p in prompts], list(shape), [count, seed])

    def draw() -> dict[str, torch.Tensor]:
        return {"latents": sample_references(adapter, prompts, shape, count, seed=seed)}

    with torch.no_grad():
        return shared_cache().remember(key, draw)["latents"]


def checked_images(images: torch.Tensor) -> torch.Tensor:
    """Returns a copy of an IMAGE without alpha, clamped to 0..1, that autograd accepts; raises ForgetError on unusable images."""
    images = check_images(images[..., :3] if images.shape[-1] == 4 else images)
    if not torch.isfinite(images).all():
        raise ForgetError("Expected images with values from 0 to 1, got some that are not numbers. Make them anew.")
    return images.detach().to("cpu", torch.float32).clone().clamp_(0, 1)


def checked_masks(mask: torch.Tensor | None, images: torch.Tensor | None) -> torch.Tensor | None:
    """Returns a copy of the masks (1 or N, H, W) of N images, or None without a mask.

    Raises
    ------
    ForgetError
        There are no images, the number of masks is another, or a mask is zero everywhere.
    """
    if mask is None:
        return None
    if images is None:
        raise ForgetError("Expected images for the mask, got none. Connect the images, or disconnect the mask.")
    masks = check_mask(mask.detach().to("cpu", copy=True))
    if len(masks) not in (1, len(images)):
        raise ForgetError(
            f"Expected one mask, or one for each of {len(images)} images, got {len(masks)}. Connect as many masks as images."
        )
    for number, image_mask in enumerate(masks, 1):
        if image_mask.max() <= 0:
            raise ForgetError(
                f"Expected something in every mask, got zeros only in mask {number}. Paint it, or leave that picture out."
            )
    return masks


def image_pairs(
    adapter: TrainedModel, concept: Concept, count: int, steps: int, guidance: float, seed: int
) -> ImagePairs:
    """Samples image pairs for the visual denoising loss with the model itself, or takes them from the cache.

    Parameters
    ----------
    count
        Number of pairs.
    steps, guidance, seed
        Settings of the sampling.
    """
    prompts, shape = concept_prompts(adapter, concept), adapter.latent_shape()
    settings = [count, steps, guidance, seed]
    key = content_key(
        "pairs", model_key(adapter), [p.context for p in prompts.encoded], prompts.columns, list(shape), settings
    )
    bar = host.Progress(count)

    def make() -> dict[str, torch.Tensor]:
        pairs = make_pairs(
            adapter,
            prompts.encoded,
            prompts.columns,
            shape,
            count,
            steps,
            guidance,
            seed,
            lambda done, total: bar.update(done, total),
        )
        return {"kept": pairs.kept, "zeroed": pairs.zeroed, "prompts": torch.tensor(pairs.prompts)}

    tensors = shared_cache().remember(key, make)
    return ImagePairs(tensors["kept"], tensors["zeroed"], tensors["prompts"].tolist())


def concepts_to_forget(previous: Any, concept: Concept | None) -> list[Concept]:
    """Returns copies of a chain's concepts and of the node's own; raises ForgetError when there are none or one occurs twice."""
    concepts = chain(previous, [concept] if concept is not None else [])
    if not concepts:
        raise ForgetError("Expected something to forget, got nothing. Type a phrase, or connect a Concept.")
    return [dataclasses.replace(c) for c in concepts]
