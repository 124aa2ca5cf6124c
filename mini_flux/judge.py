"""The judge of scenes: an independent classifier of what stands where, the ground's colours and the style, for tests and bench only.

It is trained on composed artwork (train_judge.py), never on generated pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mini_flux.config import HERE
from mini_flux.scenes import ABOVE, LEFT_OF, Scene
from mini_flux.things import GROUNDS, STYLE_NAMES, THINGS
from mini_sd.image_text import downsampling_blocks

# Where things stand: alone, or by the relation and their number.
PLACES = ("centre", "left", "right", "top", "bottom")
THING_NAMES = tuple(thing.name for thing in THINGS)
GROUND_NAMES = tuple(GROUNDS)
NOTHING = len(THING_NAMES)
WEIGHTS = HERE / "weights" / "judge.safetensors"


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
    things = {place_of(scene, n): placed.thing for n, placed in enumerate(scene.things)}
    numbers = [THING_NAMES.index(things[p]) if p in things else NOTHING for p in PLACES]
    grounds = [GROUND_NAMES.index(scene.grounds[0]), GROUND_NAMES.index(scene.grounds[-1])]
    return numbers, grounds, STYLE_NAMES.index(scene.style)


@dataclass(frozen=True)
class Seen:
    """What the judge sees in a picture.

    Attributes
    ----------
    things
        Name of the thing at each of PLACES where there is one.
    grounds
        Colours at top and bottom.
    style
        One of STYLE_NAMES.
    """

    things: dict[str, str]
    grounds: tuple[str, str]
    style: str


def place_of(scene: Scene, number: int) -> str:
    """Where the thing of this number stands in a scene, one of PLACES."""
    return {"": ("centre",), LEFT_OF: ("left", "right"), ABOVE: ("top", "bottom")}[scene.relation][number]


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge, in evaluation mode."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.eval()


@torch.inference_mode()
def look_at(judge: Judge, images: torch.Tensor) -> list[Seen]:
    """Names what the judge sees in pictures (B, 128, 128, 3) in 0..1."""
    seen = []
    for batch in images.movedim(-1, 1).float().clamp(0, 1).split(64):
        logits = judge(batch)
        for things, grounds, style in zip(
            *(x.argmax(-1).tolist() for x in (logits.things, logits.grounds, logits.styles))
        ):
            names = {place: THING_NAMES[n] for place, n in zip(PLACES, things, strict=True) if n != NOTHING}
            seen.append(Seen(names, (GROUND_NAMES[grounds[0]], GROUND_NAMES[grounds[1]]), STYLE_NAMES[style]))
    return seen
