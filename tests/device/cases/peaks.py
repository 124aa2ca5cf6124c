"""One method each and nothing beside it, for its peak of device memory; `inference` is what they are compared with."""

from __future__ import annotations

import torch

from fmn_core.attacks.search import Budget
from tests import prompts

from ..world import BOTH, FLOAT32, RESTEER, VISUAL, deltas, vectors
from .registry import case


@case
def peak_inference(w):
    """One picture's latents, sampled by the host with guidance."""
    return {"latent": w.sample(w.model, steps=2)}


@case
def peak_closed_form(w):
    return deltas(w.train()[1])


@case
def peak_closed_form_float32(w):
    return deltas(w.train(options=w.closed_form_options(precision=FLOAT32))[1])


@case
def peak_closed_form_attack_rounds(w):
    with w.short_attacks(batch=Budget().batch, pictures=8):
        return deltas(w.train(options=w.closed_form_options(attack_rounds=1))[1])


@case
def peak_resteering(w):
    return deltas(w.train(method=RESTEER)[1])


@case
def peak_resteering_whole_unet(w):
    return deltas(w.train(method=RESTEER, train="whole UNet", steps=1)[1])


@case
def peak_resteering_checkpointing(w):
    return deltas(w.train(method=RESTEER, options=w.training_options(checkpointing=True))[1])


@case
def peak_visual(w):
    return deltas(w.train(method=VISUAL)[1])


@case
def peak_both(w):
    return deltas(w.train(method=BOTH)[1])


@case
def peak_inversion(w):
    images = torch.linspace(0, 1, 128).view(1, 128, 1, 1).expand(1, 128, 128, 3)
    inputs = w.inputs_of(prompts.invert(file_name=""), "invert", images=images, inversion_steps=3)
    return vectors(w.nodes.InvertConcept.execute(**inputs).args[0])
