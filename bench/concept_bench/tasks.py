"""The tasks of a run: model x method x concepts x seed, each with a stable key, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Task:
    """One cell: `method` forgets `concepts` (one, or several at once) on `model`; `ask`: how much is sampled, one of asks.SIZES."""

    model: str
    method: str
    concepts: tuple[str, ...]
    seed: int
    ask: str = "full"

    @property
    def key(self) -> str:
        """The same for the same task on any machine, at any time."""
        return "/".join((self.model, self.ask, self.method, "+".join(self.concepts), f"seed {self.seed}"))

    def as_dict(self) -> dict:
        return asdict(self)


def tasks_of(
    methods: Sequence[str], concepts: Sequence[tuple[str, ...]], seeds: int, ask: str = "full", model: str = "miniature"
) -> list[Task]:
    """Every task once: seed 0 of all methods and concepts first, so that an unfinished run has something of everything."""
    made = [Task(model, method, names, seed, ask) for seed in range(seeds) for names in concepts for method in methods]
    return list(dict.fromkeys(made))
