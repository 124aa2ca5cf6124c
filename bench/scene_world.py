"""Scenes of two things on a miniature, before and after forgetting one of them, and what the judge of scenes sees in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.picture_figures import drift
from bench.world import Pack
from mini_flux.captions import caption
from mini_flux.judge import Seen, load_judge, look_at, place_of
from mini_flux.scenes import RELATIONS, SIZES, Placed, Scene
from mini_flux.things import GROUNDS
from mini_sd.concepts import drawn_styles
from mini_sd.generate import GUIDANCE, generate

STEPS = 12


class SceneWorld(Pack):
    """A miniature and the judge of scenes; pictures of the untouched model are drawn once."""

    def __init__(self, model: str = "flux", steps: int = STEPS, guidance: float = GUIDANCE):
        loads: dict[str, Callable[[Any], Any]] = {
            "flux": lambda host: host.load_miniature_flux(),
            "unet": lambda host: host.load_miniature(),
        }
        super().__init__(loads[model])
        self.steps, self.guidance, self.judge = steps, guidance, load_judge()
        self._untouched: dict[tuple[str, int], torch.Tensor] = {}

    def adapter(self) -> Any:
        """The adapter for the closed form."""
        return self.node("adapter.transformer").closed_form_model(self.model, self.clip)

    def pictures(self, ask: SceneAsk, model: Any = None) -> torch.Tensor:
        """Pictures (B, 128, 128, 3) of an ask."""
        if model is not None:
            return self._draw(model, ask.prompts, ask.seeds)
        keys = list(zip(ask.prompts, ask.seeds))
        missing = list(dict.fromkeys(key for key in keys if key not in self._untouched))
        if missing:
            drawn = self._draw(self.model, [p for p, _ in missing], [s for _, s in missing])
            self._untouched |= dict(zip(missing, drawn))
        return torch.stack([self._untouched[key] for key in keys])

    def _draw(self, model: Any, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        return generate(model, self.clip, self.vae, prompts, seeds, steps=self.steps, guidance=self.guidance)


@dataclass
class SceneAsk:
    """Scenes with the prompt and the seed of each, and the number of the thing that is forgotten (None: none)."""

    scenes: list[Scene] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    forgotten: list[int | None] = field(default_factory=list)

    def add(self, scene: Scene, forgotten: int | None, draw: random.Random) -> None:
        """Appends a scene with a caption whose form is not trained on."""
        self.scenes.append(scene)
        self.prompts.append(caption(scene, draw, unseen=True))
        self.seeds.append(len(self.seeds) + 10_000)
        self.forgotten.append(forgotten)

    def first(self, count: int) -> SceneAsk:
        """The first scenes."""
        return SceneAsk(self.scenes[:count], self.prompts[:count], self.seeds[:count], self.forgotten[:count])

    def see(self, world: SceneWorld, model: Any = None) -> list[Seen]:
        """What the judge sees in the pictures of a model."""
        return look_at(world.judge, world.pictures(self, model))


def scene_of(names: tuple[str, ...], draw: random.Random) -> Scene:
    """A scene of one or two things, in a style in which both are drawn, with sizes, ground and relation drawn."""
    styles = [style for style in drawn_styles(names[0]) if all(style in drawn_styles(name) for name in names)]
    placed = tuple(Placed(name, draw.choice(SIZES)) for name in names)
    relation = draw.choice(RELATIONS) if len(names) == 2 else ""
    return Scene(placed, relation, (draw.choice(list(GROUNDS)),), draw.choice(styles))


def asks_of(forgotten: list[str], others: list[str], count: int, seed: int) -> tuple[SceneAsk, SceneAsk, SceneAsk]:
    """Scenes of a forgotten thing beside another one, of a forgotten thing alone, and of two others; `count` each, things in turn."""
    draw, (beside, alone, kept) = random.Random(seed), (SceneAsk(), SceneAsk(), SceneAsk())
    for n in range(count):
        concept, other = forgotten[n % len(forgotten)], others[n % len(others)]
        # The forgotten thing stands left and right, above and below, in turn.
        number = n // len(forgotten) % 2
        beside.add(scene_of((concept, other) if number == 0 else (other, concept), draw), number, draw)
        alone.add(scene_of((concept,), draw), 0, draw)
        # By a prime, so that others meet in many pairs.
        kept.add(scene_of((other, others[(n * 7 + 1 + n // len(others)) % len(others)]), draw), None, draw)
    return beside, alone, kept


def figures_of(world: SceneWorld, asks: tuple[SceneAsk, SceneAsk, SceneAsk], model: Any = None) -> dict[str, float]:
    """Shares of pictures of a model.

    Returns
    -------
    seen, seen_alone: the forgotten thing is seen anywhere, beside another thing and alone. other, place: the other thing is
    seen anywhere, and where it should stand. colour, style: of scenes of two. kept: both things of a scene without the
    forgotten one stand where they should. empty: nothing is seen where the forgotten thing was. drift: mean squared error
    of the scenes without it.
    """
    seen = tuple(ask.see(world, model) for ask in asks)
    kept = asks[2]
    return shares(asks, seen) | {"drift": drift(world.pictures(kept), world.pictures(kept, model))}


def shares(asks: tuple[SceneAsk, ...], seen: tuple[list[Seen], ...]) -> dict[str, float]:
    """Shares of figures_of without the drift, from what is seen in the pictures of each ask."""
    (beside, alone, kept), (seen_beside, seen_alone, seen_kept) = asks, seen
    pairs = list(zip(beside.scenes, beside.forgotten, seen_beside, strict=True))
    right = {
        "seen": [_name(s, n) in f.things.values() for s, n, f in pairs],
        "seen_alone": [_name(s, 0) in f.things.values() for s, f in zip(alone.scenes, seen_alone)],
        "other": [_name(s, 1 - n) in f.things.values() for s, n, f in pairs],
        "place": [f.things.get(place_of(s, 1 - n)) == _name(s, 1 - n) for s, n, f in pairs],
        "colour": [f.grounds == (s.grounds[0], s.grounds[-1]) for s, _, f in pairs],
        "style": [f.style == s.style for s, _, f in pairs],
        "empty": [place_of(s, n) not in f.things for s, n, f in pairs],
        "kept": [
            all(f.things.get(place_of(s, n)) == _name(s, n) for n in range(2)) for s, f in zip(kept.scenes, seen_kept)
        ],
    }
    return {name: round(sum(values) / len(values), 4) for name, values in right.items()}


def _name(scene: Scene, number: int) -> str:
    return scene.things[number].thing
