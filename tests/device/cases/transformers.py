"""Trainings of a random FLUX.1, whose text encoders and transformer both compute on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from fmn_core.concepts.concept import Concept
from fmn_core.training.forget import forget_by_gradient
from fmn_core.training.inversion import InversionSettings, invert_concept
from fmn_core.training.references import References
from fmn_core.training.settings import GradientSettings
from tests import tiny_flux

from .. import host
from ..world import deltas
from .registry import case

# Latents of a 64 px picture.
SHAPE = (16, 8, 8)


@contextlib.contextmanager
def _training(w, text: bool = False) -> Iterator[Any]:
    """The pack's adapter of a random FLUX.1, ready for gradients."""
    adapter = host.pack_module("nodes.adapter.transformer").trained_model(
        *tiny_flux.flux(64, 32, w.management.get_torch_device())
    )
    adapter.latent_shape = lambda: SHAPE
    with adapter.ready_for_gradients(text=text):
        yield adapter


def _references() -> References:
    return References(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)))


@case
def resteering_flux(w):
    settings = GradientSettings(steps=3, preserve_prompts=["a horse"], use_everyday_captions=False)
    with _training(w) as adapter:
        patch = forget_by_gradient(
            adapter, [Concept(["zebra"], "object", ["a photo of a {}"])], [_references()], settings
        )
    return {**deltas(patch), "mass": torch.tensor(patch.figures["mass"])}


@case
def invert_flux(w):
    settings = InversionSettings(steps=2, words="zebra", tokens=2)
    with _training(w, text=True) as adapter:
        inversion = invert_concept(adapter, _references(), ["a photo of {}"], settings)
    return {f"word.{name}": vectors for name, vectors in inversion.embedding.items()}
