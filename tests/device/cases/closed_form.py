"""The closed form, with each of its options."""

from __future__ import annotations

from fmn_core.closed_form.targets import TARGETS

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
