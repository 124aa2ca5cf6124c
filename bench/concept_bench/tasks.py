"""Tasks of a run: model x method x concepts x seed, each with a stable key, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.concept_bench.concepts import MINIATURE


@dataclass(frozen=True)
class Checkpoint:
    """A Stable Diffusion model in one file, with the settings of its pictures and the CLIP that judges them.

    Parameters
    ----------
    sha256
        Digest of the file.
    judge
        Folder of the CLIP.
    size
        Width and height of pictures, in pixels.
    pictures
        Pictures of the concept by its name, see checkpoint_asks.
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
        """Name of the model in results: the file's name without its ending."""
        return Path(self.file).stem

    @property
    def ask(self) -> str:
        """All settings that measurements depend on, as a part of a task's key."""
        settings = f"{self.size} px, {self.steps} steps, guidance {self.guidance:g}, {self.pictures} pictures"
        return f"{settings}, judge {Path(self.judge).name}, file {self.sha256[:10]}"


@dataclass(frozen=True)
class Task:
    """One cell: a method forgets one concept, or several at once, on a model.

    Parameters
    ----------
    ask
        Amount of sampling: one of asks.SIZES on the miniature, Checkpoint.ask on a checkpoint.
    """

    model: str
    method: str
    concepts: tuple[str, ...]
    seed: int
    ask: str = "full"
    checkpoint: Checkpoint | None = None

    @property
    def key(self) -> str:
        """Key of the task, which is the same on any machine and at any time."""
        return "/".join((self.model, self.ask, self.method, "+".join(self.concepts), f"seed {self.seed}"))

    def as_dict(self) -> dict:
        """The task's columns of the store."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint"}


def tasks_of(
    methods: Sequence[str],
    concepts: Sequence[tuple[str, ...]],
    seeds: int,
    ask: str = "full",
    checkpoint: Checkpoint | None = None,
    model: str = MINIATURE,
) -> list[Task]:
    """Every task once, on a miniature, or on a checkpoint with the checkpoint's ask.

    Notes
    -----
    Seed 0 of all methods and concepts comes first, so that an unfinished run has results of all of them.
    """
    model, ask = (model, ask) if checkpoint is None else (checkpoint.label, checkpoint.ask)
    cells = ((seed, names, method) for seed in range(seeds) for names in concepts for method in methods)
    return list(dict.fromkeys(Task(model, method, names, seed, ask, checkpoint) for seed, names, method in cells))
