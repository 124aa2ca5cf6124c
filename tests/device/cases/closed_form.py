"""The closed form, with each of its options."""

from __future__ import annotations

from fmn_core.closed_form.targets import TARGETS
from tests import tiny_flux

from ..world import FLOAT32, deltas, mask
from .registry import case


@case
def closed_form_float64(w):
    return w.trained()


@case
def closed_form_float32(w):
    return w.trained(options=w.closed_form_options(precision=FLOAT32))


@case
def closed_form_keys_and_values(w):
    return w.trained(train="keys and values", options=w.closed_form_options(precision=FLOAT32))


@case
def closed_form_targets(w):
    found = {}
    for target, more in (("zero", {}), ("empty prompt", {}), ("substitute", {"substitute": "horse"})):
        names = [t for t in TARGETS if target.split()[0] in t]
        patch = w.train(options=w.closed_form_options(target=names[0], precision=FLOAT32, **more))[1]
        found |= deltas(patch, target)
    return found


@case
def closed_form_two_concepts(w):
    other = w.nodes.ConceptNode.execute(phrases="red apple", kind="object", end_token="first", embedding="none").args[0]
    return w.trained(concepts=other, options=w.closed_form_options(precision=FLOAT32))


@case
def forget_concept_and_compare(w):
    """The main node with its test pictures, and the comparison of the two models."""
    shared = {"clip": w.clip, "vae": w.vae}
    inputs = {"forget": "zebra", "kind": "object", "draw_instead": "", "keep": "", "keep_strength": 1.0, "save_as": ""}
    patched, patch, _report = w.nodes.ForgetConcept.execute(model=w.model, **shared, **inputs).args
    drawing = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "width": 0, "height": 0}
    _grid, before, after = w.nodes.Compare.execute(
        w.model, patched, **shared, prompts="a picture of a {phrase}", seed=0, pictures=2, forget_patch=patch, **drawing
    ).args
    return deltas(patch) | {"before": before, "after": after}


@case
def closed_form_flux(w):
    """A random FLUX.1: two text encoders, whose rows and pooled embeddings both reach the device."""
    model, clip = tiny_flux.flux(64, 32, w.management.get_torch_device())
    inputs = {"forget": "zebra", "kind": "object", "draw_instead": "", "keep": "", "keep_strength": 1.0, "save_as": ""}
    options = w.closed_form_options(precision=FLOAT32, imagined_words=20, vocabulary_words=12)
    patched, patch, _report = w.nodes.ForgetConcept.execute(model=model, clip=clip, options=options, **inputs).args
    assert patched is not model and len(patch.factors) == 2
    return deltas(patch)


@case
def closed_form_attack_rounds(w):
    return w.trained(options=w.closed_form_options(attack_rounds=1, imagined_words=20))


@case
def closed_form_attack_rounds_images(w):
    return w.trained(
        options=w.closed_form_options(attack_rounds=1, imagined_words=20),
        images=w.pictures()[:2],
        vae=w.vae,
        mask=mask(),
    )


@case
def closed_form_attack_rounds_quick(w):
    with w.short_attacks():
        return w.trained(options=w.closed_form_options(attack_rounds=1, imagined_words=20))
