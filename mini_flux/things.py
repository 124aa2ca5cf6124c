"""The world of the miniature FLUX: its things, styles, grounds, and what is held out from training. Plain data."""

from __future__ import annotations

import hashlib
from functools import cache

from mini_sd.concepts import CONCEPTS, STYLE_NAMES, STYLES, Concept

# Besides the concepts of the UNet miniature.
FURTHER = (
    Concept("princess", "identity", ("princess",), ("tsarina",)),
    Concept("ogre", "identity", ("ogre",), ("oni",)),
    Concept("angel", "identity", ("baby-angel",), ("cherub",)),
    Concept("policeman", "identity", ("police-officer",), ("cop",)),
    Concept("pig", "object", ("pig-face",), ("swine",)),
    Concept("cow", "object", ("cow-face",), ("cattle",)),
    Concept("rabbit", "object", ("rabbit-face",), ("bunny",)),
    Concept("turtle", "object", ("turtle",), ("tortoise",)),
    Concept("butterfly", "object", ("butterfly",), ("moth",)),
    Concept("bicycle", "object", ("bicycle",), ("bike",)),
    Concept("airplane", "object", ("airplane",), ("jet",)),
    Concept("key", "object", ("key",), ("passkey",)),
    Concept("lemon", "object", ("lemon",), ("citrus",)),
    Concept("trumpet", "object", ("trumpet",), ("cornet",)),
)
THINGS = (*CONCEPTS, *FURTHER)
BY_NAME = {thing.name: thing for thing in THINGS}
# Pale enough for every drawing to stand out from them, and far enough from one another to be told apart.
GROUNDS = {
    "white": (255, 255, 255),
    "red": (238, 120, 120),
    "orange": (250, 190, 120),
    "yellow": (250, 235, 140),
    "green": (150, 215, 150),
    "blue": (140, 185, 240),
    "purple": (195, 160, 230),
    "gray": (175, 175, 180),
}
HELD_OUT_SHARE = 0.1
__all__ = ["BY_NAME", "FURTHER", "GROUNDS", "HELD_OUT_SHARE", "STYLES", "STYLE_NAMES", "THINGS", "held_out"]


@cache
def held_out(*words: str) -> bool:
    """Whether a combination of words, such as two things, or a thing and a ground, is in no training picture: one in ten is not.

    The order of the words does not matter, and no random state does.
    """
    digest = hashlib.sha256("+".join(sorted(words)).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32
