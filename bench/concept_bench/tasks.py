"""The tasks of a run: model x method x concepts x seed, each with a stable key, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """A Stable Diffusion model in one file, how its pictures are made, and the folder of the CLIP that judges them.

    `sha256`: of the file; `size`: width and height in pixels; `pictures`: of the concept by its name, see checkpoint_asks.
    """

    file: str
    sha256: str
    judge: str
    size: int = 512
    steps: int = 20
    guidance: float = 7.5
    pictures: int = 10

    @property
    def label(self) -> str:
        return Path(self.file).stem

    @property
    def ask(self) -> str:
        """Everything that makes two measurements differ, and so a part of a task's key."""
        about = f"{self.size} px, {self.steps} steps, guidance {self.guidance:g}, {self.pictures} pictures"
        return f"{about}, judge {Path(self.judge).name}, file {self.sha256[:10]}"


@dataclass(frozen=True)
class Task:
    """One cell: `method` forgets `concepts` (one, or several at once) on `model`.

    `ask`: how much is sampled, one of asks.SIZES on the miniature, Checkpoint.ask on a checkpoint.
    """

    model: str
    method: str
    concepts: tuple[str, ...]
    seed: int
    ask: str = "full"
    checkpoint: Checkpoint | None = None

    @property
    def key(self) -> str:
        """The same for the same task on any machine, at any time."""
        return "/".join((self.model, self.ask, self.method, "+".join(self.concepts), f"seed {self.seed}"))

    def as_dict(self) -> dict:
        """What a row of the store tells of it."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint"}


def tasks_of(
    methods: Sequence[str],
    concepts: Sequence[tuple[str, ...]],
    seeds: int,
    ask: str = "full",
    checkpoint: Checkpoint | None = None,
) -> list[Task]:
    """Every task once, on the miniature or on a checkpoint, whose `ask` is its own.

    Seed 0 of all methods and concepts comes first, so that an unfinished run has something of everything.
    """
    model, ask = ("miniature", ask) if checkpoint is None else (checkpoint.label, checkpoint.ask)
    each = ((seed, names, method) for seed in range(seeds) for names in concepts for method in methods)
    return list(dict.fromkeys(Task(model, method, names, seed, ask, checkpoint) for seed, names, method in each))
