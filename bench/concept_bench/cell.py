"""One task on the miniature: a method forgets, and everything is scored before and after."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import torch

from bench.attack import one_attack
from bench.concept_bench.asks import FIRST_SEED, SEED_STEP, SIZES, asks_of
from bench.concept_bench.concepts import load_list
from bench.concept_bench.methods import all_methods
from bench.concept_bench.optional_scores import clip_scores, distances, m_scores
from bench.concept_bench.tasks import Task
from bench.concept_bench.untouched import BenchWorld
from bench.cost import measured
from bench.judged import drift
from bench.world import Ask
from fmn_core.scores.accuracies import harmonic_mean_of_erasure, retain_accuracy
from mini_sd.comfy_host import REPOSITORY
from mini_sd.concepts import STYLE_NAMES

# Of several concepts at once so many are attacked, which ones turns with the seed.
ATTACKED_OF_SEVERAL = 2


@dataclass
class Pictures:
    """Of one ask: what was asked, the picture before and after (B, 128, 128, 3), and what the judge sees in both."""

    ask: Ask
    before: torch.Tensor
    after: torch.Tensor
    seen_before: tuple[list[str], list[str]]
    seen_after: tuple[list[str], list[str]]


def measure(world: BenchWorld, task: Task) -> dict[str, Any]:
    """The figures of a task; shares are 0..1, `seconds` and `peak_mb` those of forgetting alone.

    UA, IRA, CRA, H_o: see accuracies_of. `drift`: MSE of what was not forgotten. `attacked`, `attacked_base`: share seen under an
    embedding searched on the patched and on the untouched model, for things. Raises what the method raises, KeyError on a method that does not exist.
    """
    started, size = time.perf_counter(), SIZES[task.ask]
    world.steps, asks, method = size.steps, asks_of(task), all_methods()[task.method]
    before = {name: world.sample(ask) for name, ask in asks.items()}
    with contextlib.ExitStack() as stack:
        used = time.process_time()
        with measured() as cost:
            applied = stack.enter_context(method(world, *task.concepts, seed=task.seed))
        used = time.process_time() - used
        render = applied.sampler or (lambda ask: world.sample(ask, applied.model))
        shown = {name: _shown(world, ask, before[name], render(ask)) for name, ask in asks.items()}
        figures = accuracies_of(task, shown) | _beside(world, shown)
        if size.costly:
            figures |= _attacks(world, task, applied.model) | m_scores(world, task, applied.model)
    figures |= {"seconds": cost.seconds, "own_seconds": applied.seconds, "cpu_seconds": used, "peak_mb": cost.peak_mb}
    return figures | {"artefact_bytes": applied.patch_bytes, "cell_seconds": time.perf_counter() - started}


def _shown(world: BenchWorld, ask: Ask, before: torch.Tensor, after: torch.Tensor) -> Pictures:
    return Pictures(ask, before, after, world.seen(before), world.seen(after))


def accuracies_of(task: Task, shown: dict[str, Pictures]) -> dict[str, float]:
    """UA, IRA, CRA, H_o and what they are made of, after and (with `_before`) before forgetting.

    A thing: UA of its own pictures; IRA: the other things that are right, CRA: their styles that are right. A style: UA of pictures asked
    for in it; IRA: other styles that are right, CRA: the things in them. H_o takes IRA as specificity. `context_kept`: the style of the forgotten thing's
    pictures, or the thing in the forgotten style's. `neighbours`: the share of the look-alikes that is right, for one thing.
    """
    own, context = (1, 0) if task.concepts[0] in STYLE_NAMES else (0, 1)
    found = {}
    for when in ("before", "after"):
        share = {name: _right(pictures, when) for name, pictures in shown.items()}
        erased, generality = share["target"][own], share["synonym"][own]
        ira, cra = share["others"][own], share["others"][context]
        values = {"UA": 1 - erased, "erased": erased, "generality": generality, "IRA": ira, "CRA": cra}
        values |= {"H_o": harmonic_mean_of_erasure(erased, ira, generality), "context_kept": share["target"][context]}
        near = _neighbours(task, shown["others"], when)
        values |= {} if near is None else {"neighbours": near}
        found |= {k if when == "after" else f"{k}_before": round(v, 6) for k, v in values.items()}
    return found


def _neighbours(task: Task, others: Pictures, when: str) -> float | None:
    beside = load_list(task.model)[task.concepts[0]].neighbours
    seen = (others.seen_before if when == "before" else others.seen_after)[0]
    pairs = [(a, b) for a, b in zip(seen, others.ask.concepts) if b in beside]
    return retain_accuracy(*zip(*pairs)) if pairs and len(task.concepts) == 1 else None


def _right(pictures: Pictures, when: str) -> tuple[float, float]:
    """Shares of right concepts and right styles."""
    seen = pictures.seen_before if when == "before" else pictures.seen_after
    return retain_accuracy(seen[0], pictures.ask.concepts), retain_accuracy(seen[1], pictures.ask.styles)


def _beside(world: BenchWorld, shown: dict[str, Pictures]) -> dict[str, Any]:
    """What needs pictures only: drift, distances, CLIP scores."""
    others, target = shown["others"], shown["target"]
    found = {"drift": drift(others.before, others.after), "pictures": {n: len(p.ask.prompts) for n, p in shown.items()}}
    for name, pictures in (("target", target), ("others", others)):
        for when, images in (("before", pictures.before), ("after", pictures.after)):
            found |= clip_scores(world, f"clip_{name}_{when}", images, pictures.ask.prompts)
    return found | distances(world, others.before, others.after)


def _attacks(world: BenchWorld, task: Task, model: Any) -> dict[str, float]:
    """Means over the attacked concepts; nothing for a method without a MODEL that an attacker could search on.

    Nothing for styles: on the untouched model the search finds no style more often than one in four pictures has it by chance.
    """
    if model is None or task.concepts[0] in STYLE_NAMES:
        return {}
    names = task.concepts
    if len(names) > 1:
        names = [names[(task.seed * ATTACKED_OF_SEVERAL + k) % len(names)] for k in range(ATTACKED_OF_SEVERAL)]
    seed = FIRST_SEED + SEED_STEP * task.seed + 500
    about = [world.steps, world.guidance, seed, *_attack_sources()]
    base = [
        world.figures("attack", [n, *about], lambda n=n: one_attack(world, n, world.untouched, seed=seed))
        for n in names
    ]
    after = [one_attack(world, n, model, seed=seed) for n in names]
    return {"attacked": sum(after) / len(after), "attacked_base": sum(base) / len(base)}


def _attack_sources() -> list[str]:
    files = ("bench/attack.py", "fmn_core/scores/attack.py", "fmn_core/inversion.py")
    return [(REPOSITORY / f).read_text() for f in files if (REPOSITORY / f).exists()]
