"""The judge of scenes: an independent classifier of what stands where, the ground's colours and the style, for tests and bench only.

It is trained on composed artwork (train_judge.py), never on generated pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mini_flux.scenes import ABOVE, LEFT_OF, Scene
from mini_flux.things import GROUNDS, STYLE_NAMES, THINGS
from mini_sd.image_text import downsampling_blocks

# Where things stand: alone, or by the relation and their number.
PLACES = ("centre", "left", "right", "top", "bottom")
THING_NAMES = tuple(thing.name for thing in THINGS)
GROUND_NAMES = tuple(GROUNDS)
NOTHING = len(THING_NAMES)


@dataclass
class Logits:
    """What the judge says of pictures: things (B, places, things + 1; the last means nothing), grounds (B, top and bottom, colours), styles (B, styles)."""

    things: torch.Tensor
    grounds: torch.Tensor
    styles: torch.Tensor


class Judge(nn.Module):
    """Pictures (B, 3, 128, 128) in 0..1 -> Logits."""

    def __init__(self, width: int = 48):
        super().__init__()
        self.blocks = downsampling_blocks(width)
        self.narrow = nn.Sequential(nn.Conv2d(width * 4, width, 1), nn.SiLU())
        features = width * 64
        self.things = nn.Linear(features, len(PLACES) * (NOTHING + 1))
        self.grounds = nn.Linear(features, 2 * len(GROUND_NAMES))
        self.styles = nn.Linear(features, len(STYLE_NAMES))

    def forward(self, images: torch.Tensor) -> Logits:
        x = images * 2 - 1
        for block in self.blocks:
            x = block(x)
        x = nn.functional.dropout(self.narrow(x).flatten(1), 0.2, self.training)
        things, grounds = self.things(x), self.grounds(x)
        return Logits(things.unflatten(1, (len(PLACES), -1)), grounds.unflatten(1, (2, -1)), self.styles(x))


def labels(scene: Scene) -> tuple[list[int], list[int], int]:
    """Numbers of the thing at each of PLACES, of the ground at top and bottom, and of the style."""
    places = {"": ("centre",), LEFT_OF: ("left", "right"), ABOVE: ("top", "bottom")}[scene.relation]
    things = dict(zip(places, scene.things, strict=True))
    numbers = [THING_NAMES.index(things[p].thing) if p in things else NOTHING for p in PLACES]
    grounds = [GROUND_NAMES.index(scene.grounds[0]), GROUND_NAMES.index(scene.grounds[-1])]
    return numbers, grounds, STYLE_NAMES.index(scene.style)
