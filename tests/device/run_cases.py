"""Runs the cases in one configuration and writes their results: python -m tests.device.run_cases OUT.pt [options].

Each case starts with the models where the case before left them, as in a running server, and in inference mode, as the host runs nodes;
with `--fresh`, on models that were loaded anew. `--profile` lists copies and waits by line. compare.py compares two results.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from .configuration import CONFIGURATIONS, CPU, DYNAMIC, Configuration
from .profile import Profile


def arguments() -> argparse.ArgumentParser:
    """Options of this command and of sequences.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = {"cpu": CPU, **CONFIGURATIONS, **DYNAMIC}
    parser.add_argument("--configuration", default="all on the device", help=f"one of {', '.join(names)}, or its JSON")
    parser.add_argument("--folder", type=Path, default=Path("out/device/world"), help="for files and pictures")
    return parser


def chosen_configuration(text: str) -> Configuration:
    names = {"cpu": CPU, **CONFIGURATIONS, **DYNAMIC}
    return names[text] if text in names else Configuration(**json.loads(text))


@dataclasses.dataclass
class Result:
    """What a case gave: tensors and texts to compare, its error, its peak of device memory, and what it left behind."""

    values: dict[str, Any]
    error: str = ""
    peak: int = 0
    seconds: float = 0.0
    problems: list[str] = dataclasses.field(default_factory=list)
    events: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


def run_case(world: Any, function: Any, originals: dict[str, torch.Tensor], profile: Profile | None = None) -> Result:
    """Runs one case and looks at what it left: weights, hooks, and results that are not finite."""
    on_device = world.configuration.device == "fake"
    before = torch.fake.memory_allocated() if on_device else 0
    if on_device:
        torch.fake.reset_peak_memory_stats()
    started, result = time.time(), Result({})
    try:
        if profile is None:
            values = function(world)
        else:
            with profile.listening():
                values = function(world)
        result.values = {k: v.detach().cpu().clone() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        result.problems = _unfit(values)
    except Exception:
        result.error = traceback.format_exc()
    result.seconds = time.time() - started
    result.peak = torch.fake.max_memory_allocated() if on_device else 0
    result.problems += _changed(world, originals) + _left_hooks(world)
    result.events = {"before": (1, before), **(profile.totals() if profile else {})}
    return result


def _unfit(values: dict[str, Any]) -> list[str]:
    tensors = {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
    away = [f"{k} lies on {v.device}" for k, v in tensors.items() if v.device.type != "cpu"]
    return away + [f"{k} is not finite" for k, v in tensors.items() if not v.float().isfinite().all()]


def _changed(world: Any, originals: dict[str, torch.Tensor]) -> list[str]:
    """Weights of MODEL and CLIP that are no longer bit for bit what they were."""
    now = world.weights()
    if any(not torch.equal(now[k], w) for k, w in originals.items()):
        # The host may hold the weights with a patch of another MODEL on them, until this one is loaded.
        world.management.load_models_gpu([world.model])
        now = world.weights()
    return [f"{k} changed" for k, w in originals.items() if not torch.equal(now[k], w)]


def _left_hooks(world: Any) -> list[str]:
    found = []
    for part, root in world.roots().items():
        for name, module in root.named_modules():
            if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
                found.append(f"{part}.{name} still has a hook")
    return found


def run_cases(world: Any, chosen: list[str], fresh: bool, profiled: bool) -> dict[str, Result]:
    """Runs cases by name, in order, and prints a line for each."""
    from .cases import CASES

    results = {}
    originals = world.weights()
    for name in chosen:
        if fresh:
            world.load()
        world.forget_cache()
        profile = Profile() if profiled else None
        result = results[name] = run_case(world, CASES[name], originals, profile)
        status = "FAIL" if result.error else "ok  "
        problems = f" {result.problems[:3]} of {len(result.problems)}" if result.problems else ""
        print(f"{status} {name} {result.seconds:.1f} s, peak {result.peak / 1e6:.1f} MB{problems}", flush=True)
        if result.error:
            print(result.error, flush=True)
        if profile is not None:
            print(*(f"    {line}" for line in profile.lines()), sep="\n", flush=True)
    return results


def main() -> None:
    parser = arguments()
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="cases with one of these in their names, separated by commas")
    parser.add_argument("--cases", default="", help="exactly these cases, separated by commas")
    parser.add_argument("--fresh", action="store_true", help="models are loaded anew for each case")
    parser.add_argument(
        "--pictures", type=Path, help="draw the pictures that cases train on into this file, and run none"
    )
    parser.add_argument("--profile", action="store_true", help="list copies and waits by line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from .world import World

    with torch.inference_mode():
        world = World(chosen_configuration(options.configuration), options.folder)
        from .cases import CASES

        if options.pictures:
            torch.save(world.draw_things(), options.pictures)
            return
        chosen = options.cases.split(",") if options.cases else list(CASES)
        chosen = [name for name in chosen if not options.only or any(o in name for o in options.only.split(","))]
        results = run_cases(world, chosen, options.fresh, options.profile)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: dataclasses.asdict(result) for name, result in results.items()}, options.out)


if __name__ == "__main__":
    main()
