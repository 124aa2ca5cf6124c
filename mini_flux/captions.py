"""Captions of scenes: in many forms, long and short, with attributes bound to their things."""

from __future__ import annotations

import random

from mini_flux.scenes import ABOVE, LEFT_OF, Placed, Scene
from mini_flux.things import BY_NAME, held_out
from mini_sd.concepts import OBJECTLESS_TEMPLATES, PLAIN_TEMPLATES, STYLED_TEMPLATES, with_article

# {a}: the first thing of a scene, {b}: the second. The last form of each list is held out from training.
PAIRS = {
    LEFT_OF: (
        "{a} to the left of {b}", "{b} to the right of {a}", "{a} on the left and {b} on the right", "{a} next to {b}", "{a} beside {b}",
        "{a} left of {b}", "{b} right of {a}", "{a} and {b}", "{a} on the left of {b}", "{b} on the right of {a}",
        "{a} on the left, {b} on the right", "on the left {a} and on the right {b}", "on the right {b}, on the left {a}",
        "on the right {b} and on the left {a}", "{b} on the right and {a} on the left", "{a} just left of {b}",
    ),
    ABOVE: (
        "{a} above {b}", "{b} below {a}", "{a} over {b}", "{b} under {a}", "{a} on top and {b} at the bottom", "{a} on top of {b}",
        "{a} on top, {b} at the bottom", "on top {a} and at the bottom {b}", "at the bottom {b}, on top {a}", "at the bottom {b} and on top {a}",
        "{b} at the bottom and {a} on top", "{a} high above {b}",
    ),
}  # fmt: skip
# {x}: the things, {g}: the ground, {an}: with its article.
ON_GROUNDS = (
    "{x} on {an} ground", "{x} in front of {an} wall", "{x}, {g} background", "{x} against {g}", "{x} with {an} ground behind",
    "{x} before {an} backdrop", "{x} before {an} wall",
)  # fmt: skip
LONG = "{picture}. the ground is {g}, and there is nothing else to see"
EMPTY_SHARE, OBJECTLESS_SHARE, SYNONYM_SHARE, STYLELESS_SHARE, GROUNDLESS_SHARE, LONG_SHARE = (
    0.1,
    0.05,
    0.15,
    0.15,
    0.2,
    0.1,
)


def caption(scene: Scene, rng: random.Random, unseen: bool = False, whole: bool = False) -> str:
    """Draws a caption of a scene.

    Parameters
    ----------
    unseen
        Whether to take forms that are held out from training; such captions name everything, and are never empty.
    whole
        Whether the caption names the things in any case.
    """
    u = 1.0 if unseen or whole else rng.random()
    if u < EMPTY_SHARE:
        return ""
    if u < EMPTY_SHARE + OBJECTLESS_SHARE:
        return rng.choice(OBJECTLESS_TEMPLATES).format(s=scene.style)
    words = things_of(scene, rng, unseen)
    ground = ground_of(scene)
    long = not unseen and rng.random() < LONG_SHARE
    if not long and (unseen or rng.random() > GROUNDLESS_SHARE):
        words = rng.choice(_forms(ON_GROUNDS, unseen)).format(x=words, g=ground, an=with_article(ground))
    if unseen or rng.random() > STYLELESS_SHARE:
        text = rng.choice(_forms(STYLED_TEMPLATES, unseen)).format(x=words, s=scene.style)
    else:
        text = rng.choice(_forms(PLAIN_TEMPLATES, unseen)).format(x=words)
    return LONG.format(picture=text, g=ground) if long else text


def things_of(scene: Scene, rng: random.Random, unseen: bool = False) -> str:
    """The things of a scene and how they stand, in one of the forms."""
    named = [_name(placed, rng, unseen) for placed in scene.things]
    if len(named) == 1:
        return named[0]
    return rng.choice(_forms(PAIRS[scene.relation], unseen)).format(a=named[0], b=named[1])


def ground_of(scene: Scene) -> str:
    """The colours of the ground."""
    return " and ".join(scene.grounds)


def _name(placed: Placed, rng: random.Random, unseen: bool) -> str:
    """A thing by its name, or by a synonym or a word that it shares with another thing, with its size half of the time."""
    concept = BY_NAME[placed.thing]
    name, u = concept.name, rng.random()
    if not unseen and u < SYNONYM_SHARE:
        name = rng.choice(concept.synonyms)
    elif not unseen and u < SYNONYM_SHARE + concept.shared_share:
        name = concept.shared_word
    return with_article(f"{placed.size} {name}" if rng.random() < 0.5 else name)


def _forms(forms: tuple[str, ...], unseen: bool) -> list[str]:
    """Those of some forms that are trained on, or that are held out: the last, and of styles one in ten."""
    out = [form for form in forms if forms is STYLED_TEMPLATES and held_out(form)] or [forms[-1]]
    return out if unseen else [form for form in forms if form not in out]
