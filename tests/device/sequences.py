"""Nodes in random order, as in a long session of a server: python -m tests.device.sequences --count 1000 [--seed 0] [--configuration NAME].

Looks for errors, and for results that depend on what ran before: each step has one right result, the one it had on models that were
loaded anew. `--steps load,draw,train_resteer` runs one sequence.
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Iterator

import torch

from .run_cases import arguments, chosen_configuration

# Steps between two loads of the models, at most.
LENGTH = 10
TOLERANCE = 2e-2


class Session:
    """Runs steps and keeps what failed, with the steps since the models were loaded."""

    def __init__(self, world):
        self.world, self.right, self.failures, self.since_load = world, {}, [], []

    def run(self, name: str) -> bool:
        """Runs one step; False where it raised, or gave another result than the first time."""
        from .steps import STEPS

        w = self.world
        self.since_load.append(name)
        if name == "load":
            self.since_load = [name]
            w.load()
            return True
        if name == "unload":
            w.management.unload_all_models()
            return True
        try:
            w.forget_cache()
            found = STEPS[name](w)
        except Exception as error:
            return self._failed(f"{type(error).__name__}: {error}", traceback.format_exc())
        right = self.right.setdefault(name, found)
        off = (
            float((found - right).norm() / right.norm().clamp_min(1e-6)) if found.shape == right.shape else float("inf")
        )
        return off <= TOLERANCE or self._failed(f"another result, {off:.1e} away")

    def _failed(self, what: str, trace: str = "") -> bool:
        self.failures.append((" > ".join(self.since_load), what))
        print(f"FAIL {self.failures[-1][0]}: {what}\n{trace}", flush=True)
        return False


def random_steps(names: list[str], seed: int) -> Iterator[str]:
    """Steps without end: after a load, up to LENGTH of the names, among which the models are sometimes unloaded."""
    draws = random.Random(seed)
    while True:
        yield "load"
        yield from (draws.choice([*names, *names, *names, "unload"]) for _ in range(LENGTH))


def main() -> None:
    parser = arguments()
    parser.add_argument("--count", type=int, default=100, help="steps to run, loads not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", default="", help="one sequence, separated by commas")
    parser.add_argument("--seconds", type=float, default=1e9, help="end after so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from .world import World

    with torch.inference_mode():
        session = Session(World(chosen_configuration(options.configuration), options.folder))
        from .steps import STEPS

        session.world.pictures()
        started, done = time.time(), 0
        chosen = options.steps.split(",") if options.steps else random_steps(list(STEPS), options.seed)
        for name in chosen:
            fine = session.run(name)
            done += name not in ("load", "unload")
            if not fine:
                session.run("load")
            if done % 50 == 0 and name != "load":
                print(f"{done} steps, {len(session.failures)} failed", flush=True)
            if done >= options.count or time.time() - started > options.seconds:
                break
    print(f"{done} steps in {time.time() - started:.0f} s, {len(session.failures)} failed")
    raise SystemExit(bool(session.failures))


if __name__ == "__main__":
    main()
