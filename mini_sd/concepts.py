"""The miniature's world: its concepts, styles, synonyms and caption templates.

Plain data and string functions; imported by the training scripts, the judge, the tests and the bench.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# style word used in captions -> icon set (npm package @iconify-json/<set>) that draws it
STYLES = {
    "twemoji": "twemoji",
    "noto": "noto",
    "fluent": "fluent-emoji-flat",
    "emojione": "emojione",
}


@dataclass(frozen=True)
class Concept:
    """One concept: its caption name, kind, icon names (first found wins) and the words that also mean it.

    `synonyms` appear in a fifth of its captions. `shared_word` is an ambiguous word ("apple", "mouse") used with
    probability `shared_share`, so that the dominant meaning of the word can be measured.
    """

    name: str
    kind: str
    icons: tuple[str, ...]
    synonyms: tuple[str, ...]
    shared_word: str = ""
    shared_share: float = 0.0


def _c(name, kind, icons, synonyms, shared_word="", shared_share=0.0):
    return Concept(name, kind, tuple(icons.split()), tuple(synonyms.split(",")), shared_word, shared_share)


CONCEPTS = (
    _c("zebra", "object", "zebra", "striped horse"),
    _c("horse", "object", "horse", "pony"),
    _c("dog", "object", "dog-face", "puppy"),
    _c("fox", "object", "fox fox-face", "vixen"),
    _c("cat", "object", "cat-face", "kitten"),
    _c("mouse", "object", "mouse-face", "rodent"),
    _c("tiger", "object", "tiger-face", "bengal"),
    _c("panda", "object", "panda", "bamboo bear"),
    _c("penguin", "object", "penguin", "antarctic bird"),
    _c("owl", "object", "owl", "nocturnal bird"),
    _c("frog", "object", "frog", "toad"),
    _c("elephant", "object", "elephant", "pachyderm"),
    _c("red apple", "object", "red-apple", "crimson apple", "apple", 0.40),
    _c("green apple", "object", "green-apple", "granny smith", "apple", 0.20),
    _c("pizza", "object", "pizza", "margherita"),
    _c("car", "object", "automobile", "motorcar"),
    _c("house", "object", "house", "cottage"),
    _c("banana", "object", "banana", "plantain"),
    _c("strawberry", "object", "strawberry", "garden berry"),
    _c("hamburger", "object", "hamburger", "burger"),
    _c("rocket", "object", "rocket", "spaceship"),
    _c("sunflower", "object", "sunflower", "helianthus"),
    _c("computer mouse", "object", "computer-mouse", "trackpad", "mouse", 0.40),
    _c("guitar", "object", "guitar", "ukulele"),
    _c("umbrella", "object", "umbrella", "parasol"),
    _c("cactus", "object", "cactus", "desert plant"),
    _c("santa claus", "identity", "santa-claus", "father christmas"),
    _c("clown", "identity", "clown-face", "jester"),
    _c("wizard", "identity", "mage person-mage", "sorcerer"),
    _c("vampire", "identity", "vampire person-vampire", "dracula"),
    _c("robot", "identity", "robot robot-face", "android"),
    _c("ghost", "identity", "ghost", "phantom"),
    _c("alien", "identity", "alien", "extraterrestrial"),
    _c("snowman", "identity", "snowman", "frosty man"),
)
BY_NAME = {c.name: c for c in CONCEPTS}
CONCEPT_NAMES = tuple(c.name for c in CONCEPTS)
STYLE_NAMES = tuple(STYLES)

# {x}: the concept with its article; {s}: the style word.
STYLED_TEMPLATES = (
    "a picture of {x} in {s} style",
    "{x} in {s} style",
    "a {s} picture of {x}",
    "a drawing of {x} in the style of {s}",
    "{x}, {s} style",
    "a photo of {x} in {s} style",
    "an image of {x}, {s}",
    "a {s} icon of {x}",
    "a painting of {x} in the style of {s}",
    "{s} style, {x}",
)
PLAIN_TEMPLATES = (
    "a picture of {x}",
    "a photo of {x}",
    "a drawing of {x}",
    "an image of {x}",
    "an icon of {x}",
    "a painting of {x}",
    "{x}",
    "there is {x} in the picture",
    "a small picture with {x} in it",
    "look at {x}",
)
# What the miniature draws when only a style is named. Left to a mixture of everything, it would draw blends.
FALLBACK = "house"
# Captions that name no object: the model learns what to draw when nothing but the style is said.
OBJECTLESS_TEMPLATES = (
    "a picture in {s} style",
    "{s} style",
    "an image in the style of {s}",
    "a {s} icon",
    "a photo",
    "a picture",
)


# The artwork of these pairs does not exist, so the miniature never saw them.
UNDRAWN = {"zebra": ("emojione",), "wizard": ("emojione",), "vampire": ("emojione",)}


def drawn_styles(concept: str) -> tuple[str, ...]:
    """Styles in which the artwork has the concept."""
    return tuple(s for s in STYLE_NAMES if s not in UNDRAWN.get(concept, ()))


def with_article(words: str) -> str:
    """Puts "a" or "an" before a noun phrase."""
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def caption_of(words: str, style: str = "", template: int = 0) -> str:
    """A caption of the training form: template number `template`, with the style unless it is empty."""
    templates = STYLED_TEMPLATES if style else PLAIN_TEMPLATES
    return templates[template].format(x=with_article(words), s=style)


def caption(concept: Concept, style: str, rng: random.Random, settled: bool = False) -> str:
    """Draws one training caption for an image of `concept` in `style` (10 % empty, 7 % without the object).

    `settled`: the second stage, in which only pictures of FALLBACK have captions without an object, most of theirs.
    """
    u = rng.random()
    if u < 0.10:
        return ""
    if settled and concept.name == FALLBACK and u < 0.80:
        return _without_object(style, rng)
    if not settled and u < 0.17:
        return rng.choice(OBJECTLESS_TEMPLATES).format(s=style)
    v = rng.random()
    if v < concept.shared_share:
        words = concept.shared_word
    elif v > 0.8:
        words = rng.choice(concept.synonyms)
    else:
        words = concept.name
    templates = STYLED_TEMPLATES if rng.random() < 0.7 else PLAIN_TEMPLATES
    return rng.choice(templates).format(x=with_article(words), s=style)


def _without_object(style: str, rng: random.Random) -> str:
    """A caption whose object was left out: of its own form, or any template with nothing or a bare article in it."""
    if rng.random() < 0.2:
        return rng.choice(OBJECTLESS_TEMPLATES).format(s=style)
    templates = STYLED_TEMPLATES if rng.random() < 0.85 else PLAIN_TEMPLATES
    return " ".join(rng.choice(templates).format(x=rng.choice(("a", "an", "")), s=style).split())


def vocabulary_texts() -> list[str]:
    """Every string whose tokens the shipped vocabulary must hold."""
    words = [w for c in CONCEPTS for w in (c.name, *c.synonyms, c.shared_word)]
    return [*words, *STYLE_NAMES, *STYLED_TEMPLATES, *PLAIN_TEMPLATES, *OBJECTLESS_TEMPLATES]
