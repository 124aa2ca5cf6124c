"""Scenes of one or two things on a ground: what is in them, and pictures of them composed from the artwork."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mini_flux.things import GROUNDS, STYLE_NAMES, held_out

SIZE = 128
SIZES = ("big", "small")
LEFT_OF, ABOVE = "left of", "above"
RELATIONS = (LEFT_OF, ABOVE)
# Pixels of a thing that stands alone, and of one beside another, by size.
ALONE = {"big": 104, "small": 60}
BESIDE = {"big": 62, "small": 42}
TWO_SHARE, GRADIENT_SHARE = 0.65, 0.2


@dataclass(frozen=True)
class Placed:
    """A thing in a scene, with its size, one of SIZES."""

    thing: str
    size: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes
    ----------
    things
        One or two. Of two, the first stands left of the second, or above it.
    relation
        One of RELATIONS where there are two things, else empty.
    grounds
        The ground's colour, or the colours of a gradient at its top and bottom.
    style
        One of STYLE_NAMES.
    """

    things: tuple[Placed, ...]
    relation: str
    grounds: tuple[str, ...]
    style: str

    def is_held_out(self) -> bool:
        """Whether the things beside one another, or one of them on a ground, are in no training picture."""
        names = [placed.thing for placed in self.things]
        return (len(names) == 2 and held_out(*names)) or any(
            held_out(n, ground) for n in names for ground in self.grounds
        )


class Artwork:
    """Drawings of the things by style: RGBA (128, 128, 4) uint8, transparent around the thing.

    Parameters
    ----------
    drawings
        By (style, thing).
    """

    def __init__(self, drawings: dict[tuple[str, str], np.ndarray]):
        self._drawings, self._scaled = drawings, dict[tuple[str, str, int], np.ndarray]()
        self.things = {style: sorted(t for s, t in drawings if s == style) for style in STYLE_NAMES}

    def drawing(self, style: str, thing: str, size: int) -> np.ndarray:
        """A drawing of a size in pixels, (size, size, 4) float32 in 0..1, with its colours multiplied by alpha."""
        key = style, thing, size
        if key not in self._scaled:
            from PIL import Image

            rgba = self._drawings[style, thing].astype(np.float32) / 255
            rgba[..., :3] *= rgba[..., 3:]
            channels = [Image.fromarray(rgba[..., c]).resize((size, size), Image.Resampling.LANCZOS) for c in range(4)]
            self._scaled[key] = np.stack([np.asarray(c) for c in channels], -1).clip(0, 1)
        return self._scaled[key]


def random_scene(artwork: Artwork, rng: np.random.Generator, unseen: bool = False) -> Scene:
    """Draws a scene: one that may be trained on, or with `unseen` one that is held out.

    Things of equal probability, both of the same style; grounds of equal probability.
    """
    while True:
        style = str(rng.choice(STYLE_NAMES))
        count = 2 if rng.random() < TWO_SHARE else 1
        names = rng.choice(artwork.things[style], count, replace=False)
        grounds = rng.choice(list(GROUNDS), 2 if rng.random() < GRADIENT_SHARE else 1, replace=False)
        placed = tuple(Placed(str(name), str(rng.choice(SIZES))) for name in names)
        relation = str(rng.choice(RELATIONS)) if count == 2 else ""
        scene = Scene(placed, relation, tuple(str(g) for g in grounds), style)
        if scene.is_held_out() == unseen:
            return scene


def compose(scene: Scene, artwork: Artwork, rng: np.random.Generator | None = None) -> np.ndarray:
    """A picture (128, 128, 3) uint8 of a scene; its things stand at their places, or with `rng` a few pixels from them."""
    picture = _ground(scene.grounds)
    for number, placed in enumerate(scene.things):
        size = (ALONE if len(scene.things) == 1 else BESIDE)[placed.size]
        centre = _centre(scene.relation, number)
        top, left = (_corner(c, size, rng) for c in centre)
        drawing = artwork.drawing(scene.style, placed.thing, size)
        region = picture[top : top + size, left : left + size]
        region *= 1 - drawing[..., 3:]
        region += drawing[..., :3]
    return (picture * 255).round().clip(0, 255).astype(np.uint8)


def _ground(names: tuple[str, ...]) -> Any:
    """The ground (128, 128, 3) in 0..1: one colour, or from one at the top to another at the bottom."""
    first, last = (np.array(GROUNDS[name], np.float32) / 255 for name in (names[0], names[-1]))
    share = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    return np.broadcast_to(first * (1 - share) + last * share, (SIZE, SIZE, 3)).copy()


def _centre(relation: str, number: int) -> tuple[int, int]:
    """Row and column of a thing's middle."""
    middle, place = SIZE // 2, SIZE // 4 + number * SIZE // 2
    return {"": (middle, middle), LEFT_OF: (middle, place), ABOVE: (place, middle)}[relation]


def _corner(centre: int, size: int, rng: np.random.Generator | None) -> int:
    """The first pixel of a thing, within the picture; with `rng` at most 6 away from where its middle is exact."""
    moved = centre - size // 2 + (0 if rng is None else int(rng.integers(-6, 7)))
    return min(max(moved, 0), SIZE - size)
