"""Growth of cost on the miniature, cost of a patch while sampling, and cost of the pack at start-up."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.cost import measure_cost
from bench.speed_methods import closed_form, concepts_of
from bench.world import World
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.references import References
from mini_sd.concepts import CONCEPT_NAMES
from mini_sd.generate import generate
from tools.comfy_host import REPOSITORY

SAMPLING_PAIRS = 9


def sampling_ratio(world: World, count: int = SAMPLING_PAIRS) -> str:
    """Line on the time of sampling with a patch, relative to sampling without; both take turns."""
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
    """Line on the time to import the pack into a running host."""
    code = (
        "import time; from tools import comfy_host; comfy_host.activate(); import nodes, aiohttp, comfy.sd, comfy_api.latest; "
        "t = time.perf_counter(); comfy_host.load_pack(); print(time.perf_counter() - t)"
    )
    times = []
    for _ in range(3):
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        times.append(float(process.stdout.split()[-1]))
    return f"importing the pack into a running host takes {statistics.median(times):.2f} s"


def growth(world: World) -> dict[str, dict[str, list]]:
    """Seconds and MB by concepts and by tokens (closed form), and by steps and by latent size (re-steering)."""
    curves: dict[str, dict[str, list]] = {}

    def add(quantity: str, x: int, cost: Any) -> None:
        curve = curves.setdefault(quantity, {"x": [], "seconds": [], "peak_mb": []})
        curve["x"].append(x)
        curve["seconds"].append(round(cost.seconds, 3))
        curve["peak_mb"].append(round(cost.peak_mb))
        print(quantity, x, f"{cost.seconds:.2f} s", flush=True)

    for count in (1, 3, 10, 30):
        add("concepts, closed form", count, _closed_form_cost(world, list(CONCEPT_NAMES[:count])))
    for tokens in (1, 4, 16, 48):
        add("tokens of the phrase, closed form", tokens, _closed_form_cost(world, [" ".join(["zebra"] * tokens)]))
    for steps in (5, 10, 20, 40, 80):
        add("steps, re-steering", steps, _training_cost(world, steps, 16))
    for side in (16, 24, 32, 48):
        add("side of the latent, re-steering", side, _training_cost(world, 5, side))
    return curves


def _closed_form_cost(world: World, names: list[str]) -> Any:
    adapter = world.adapter()
    with torch.inference_mode(False), measure_cost() as cost:
        forget_closed_form(adapter, concepts_of(world, adapter, names), ClosedFormSettings())
    return cost


def _training_cost(world: World, steps: int, side: int) -> Any:
    adapter = world.adapter()
    settings = GradientSettings(steps=steps, drift_every=0)
    with torch.inference_mode(False), measure_cost() as cost, adapter.ready_for_gradients():
        references = [References(torch.zeros(1, 4, side, side))]
        forget_by_gradient(adapter, concepts_of(world, adapter, ["zebra"]), references, settings)
    return cost


def plot_growth(curves: dict[str, dict[str, list]], path: Path) -> None:
    """Plots one panel for each quantity: seconds on the left axis, megabytes on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), layout="constrained")
    for axis, (quantity, curve) in zip(axes, curves.items()):
        axis.plot(curve["x"], curve["seconds"], "o-", color="#2563eb")
        axis.set(xlabel=quantity, ylabel="seconds", ylim=(0, None))
        right = axis.twinx()
        right.plot(curve["x"], curve["peak_mb"], "s--", color="#b45309")
        right.set(ylabel="MB", ylim=(0, None))
    figure.savefig(path, dpi=110)
