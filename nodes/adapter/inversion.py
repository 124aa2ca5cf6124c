"""Runs textual inversion on the images of a node."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from ...fmn_core.concepts.concept import Concept, concept_from_text
from ...fmn_core.model.tokens import LearnedEmbedding
from ...fmn_core.training.augmentation import AugmentSettings
from ...fmn_core.training.inversion import Inversion, InversionSettings, invert_concept
from .references import encode_references
from .transformer import TrainedModel


def invert_images(
    adapter: TrainedModel,
    vae: Any,
    images: torch.Tensor,
    mask: torch.Tensor | None,
    kind: str,
    settings: InversionSettings,
    start: LearnedEmbedding | None,
    progress: contextlib.AbstractContextManager[Any],
) -> Inversion:
    """Learns token embeddings from images.

    Parameters
    ----------
    images, mask
        IMAGE (N, H, W, 3) in 0..1, and a mask of the concept in it.
    start
        An embedding to continue from, or None.
    progress
        Gives the callback of every step; entered once the images are encoded.
    """
    concept = Concept([], kind, [], images=images, masks=mask)
    references = encode_references(adapter, vae, concept, AugmentSettings(), settings.seed)
    templates = concept_from_text("it", kind).templates
    with progress as report_progress, adapter.ready_for_gradients(text=True):
        return invert_concept(adapter, references, templates, settings, start, report_progress)
