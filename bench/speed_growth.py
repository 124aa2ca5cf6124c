"""How cost grows on the miniature, what a patch costs while sampling, and what the pack costs at start-up."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.cost import measured
from bench.speed_methods import closed_form, concepts_of
from bench.world import World
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.references import References
from mini_sd.concepts import CONCEPT_NAMES
from mini_sd.generate import generate
from tools.comfy_host import REPOSITORY

PAIRS = 9


def sampling_ratio(world: World, count: int = PAIRS) -> str:
    """Time of sampling with a patch over time without, in turn, so that both meet the same machine."""
    times: dict[bool, list[float]] = {False: [], True: []}
    with closed_form()(world, ["zebra"]) as run:
        for _ in range(count):
            for patched in (False, True):
                started = time.perf_counter()
                generate(
                    run.model if patched else world.model,
                    world.clip,
                    world.vae,
                    ["a picture of a dog in noto style"] * 4,
                    [1, 2, 3, 4],
                )
                times[patched].append(time.perf_counter() - started)
    pairs = [b / a for a, b in zip(times[False][1:], times[True][1:])]
    return (
        f"sampling with a patch takes {statistics.median(pairs):.3f} of the time without (median of {count - 1} pairs, "
        f"{min(pairs):.2f} to {max(pairs):.2f})"
    )


def import_seconds() -> str:
    """Time to import the pack into a host that is running."""
    code = (
        "import time; from mini_sd import comfy_host; comfy_host.activate(); import nodes, aiohttp, comfy.sd, comfy_api.latest; "
        "t = time.perf_counter(); comfy_host.load_pack(); print(time.perf_counter() - t)"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        times.append(float(done.stdout.split()[-1]))
    return f"importing the pack into a running host takes {statistics.median(times):.2f} s"


def growth(world: World) -> dict[str, dict[str, list]]:
    """Seconds and megabytes against concepts and tokens (closed form), and steps and latent size (re-steering)."""
    found: dict[str, dict[str, list]] = {}

    def note(what: str, x: int, cost: Any) -> None:
        of = found.setdefault(what, {"x": [], "seconds": [], "peak_mb": []})
        of["x"].append(x)
        of["seconds"].append(round(cost.seconds, 3))
        of["peak_mb"].append(round(cost.peak_mb))
        print(what, x, f"{cost.seconds:.2f} s", flush=True)

    for count in (1, 3, 10, 30):
        note("concepts, closed form", count, _solved(world, list(CONCEPT_NAMES[:count])))
    for tokens in (1, 4, 16, 48):
        note("tokens of the phrase, closed form", tokens, _solved(world, [" ".join(["zebra"] * tokens)]))
    for steps in (5, 10, 20, 40, 80):
        note("steps, re-steering", steps, _trained(world, steps, 16))
    for side in (16, 24, 32, 48):
        note("side of the latent, re-steering", side, _trained(world, 5, side))
    return found


def _solved(world: World, names: list[str]) -> Any:
    adapter = world.adapter()
    with torch.inference_mode(False), measured() as cost:
        forget_closed_form(adapter, concepts_of(world, adapter, names), ClosedFormSettings())
    return cost


def _trained(world: World, steps: int, side: int) -> Any:
    adapter = world.adapter()
    chosen = GradientSettings(steps=steps, drift_every=0)
    with torch.inference_mode(False), measured() as cost, adapter.ready_for_gradients():
        made = [References(torch.zeros(1, 4, side, side))]
        forget_by_gradient(adapter, concepts_of(world, adapter, ["zebra"]), made, chosen)
    return cost


def plot_growth(found: dict[str, dict[str, list]], path: Path) -> None:
    """One panel for each thing that grows: seconds on the left axis, megabytes on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 3.2), layout="constrained")
    for axis, (what, of) in zip(axes, found.items()):
        axis.plot(of["x"], of["seconds"], "o-", color="#2563eb")
        axis.set(xlabel=what, ylabel="seconds", ylim=(0, None))
        right = axis.twinx()
        right.plot(of["x"], of["peak_mb"], "s--", color="#b45309")
        right.set(ylabel="MB", ylim=(0, None))
    figure.savefig(path, dpi=110)
