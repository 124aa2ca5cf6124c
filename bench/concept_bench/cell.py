"""Runs one cell of ConceptBench: a method forgets, and pictures before and after are scored."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import torch

from bench.attack import one_attack
from bench.concept_bench.asks import FIRST_SEED, SEED_STEP, SIZES
from bench.concept_bench.checkpoint_world import CheckpointWorld
from bench.concept_bench.concepts import BenchConcept, list_of, load_list
from bench.concept_bench.method_registry import all_methods
from bench.concept_bench.miniature_world import BenchWorld
from bench.concept_bench.optional_scores import clip_scores, distances, m_scores
from bench.concept_bench.tasks import Task
from bench.cost import measured
from bench.judged import drift
from bench.world import Ask
from fmn_core.scores.accuracies import harmonic_mean_of_erasure, retain_accuracy
from tools.comfy_host import REPOSITORY

# How many of several concepts are attacked; the seed decides which.
ATTACKED_OF_SEVERAL = 2
# A change of one of these makes the attacks on the untouched model again.
ATTACK_SOURCES = (
    "bench/attack.py",
    "fmn_core/attacks/search.py",
    "fmn_core/training/inversion.py",
    "fmn_core/training/noised_batches.py",
)


@dataclass
class Pictures:
    """Pictures of one ask before and after forgetting, (B, H, W, 3) each, and the concepts and styles that the judge sees in them."""

    ask: Ask
    before: torch.Tensor
    after: torch.Tensor
    seen_before: tuple[list[str], list[str]]
    seen_after: tuple[list[str], list[str]]


def measure(world: BenchWorld | CheckpointWorld, task: Task) -> dict[str, Any]:
    """The figures of a task; shares are 0..1, `seconds` and `peak_mb` those of forgetting alone.

    UA, IRA, CRA, H_o: see accuracies_of. `drift`: MSE of what was not forgotten. `attacked`, `attacked_base`: share seen under an
    embedding searched on the patched and on the untouched model, for things of the miniature. A checkpoint is not attacked,
    since the search (bench/attack.py) is made of the miniature's styles, and has no M-Score; `setting` tells how it was measured.
    Raises what the method raises, KeyError on a method that does not exist.
    """
    started, method = time.perf_counter(), all_methods()[task.method]
    asks = world.asks(task)
    before = {name: world.sample(ask) for name, ask in asks.items()}
    with contextlib.ExitStack() as stack:
        used = time.process_time()
        with measured() as cost:
            applied = stack.enter_context(method(world, *task.concepts, seed=task.seed))
        used = time.process_time() - used
        render = applied.sampler or (lambda ask: world.sample(ask, applied.model))
        shown = {name: _shown(world, task, ask, before[name], render(ask)) for name, ask in asks.items()}
        figures = accuracies_of(task, shown) | _beside(world, shown)
        if isinstance(world, CheckpointWorld):
            figures |= {"setting": world.setting}
        elif SIZES[task.ask].costly:
            figures |= _attacks(world, task, applied.model) | m_scores(world, task, applied.model)
    figures |= {"seconds": cost.seconds, "own_seconds": applied.seconds, "cpu_seconds": used, "peak_mb": cost.peak_mb}
    return figures | {"artefact_bytes": applied.patch_bytes, "cell_seconds": time.perf_counter() - started}


def _shown(world: Any, task: Task, ask: Ask, before: torch.Tensor, after: torch.Tensor) -> Pictures:
    return Pictures(ask, before, after, world.judged(task, before), world.judged(task, after))


def _first(task: Task) -> BenchConcept:
    return load_list(list_of(task.model))[task.concepts[0]]


def accuracies_of(task: Task, shown: dict[str, Pictures]) -> dict[str, float]:
    """UA, IRA, CRA, H_o and what they are made of, after and (with `_before`) before forgetting.

    A thing: UA of its own pictures; IRA: the other things that are right, CRA: their styles that are right. A style: UA of pictures asked
    for in it; IRA: other styles that are right, CRA: the things in them. H_o takes IRA as specificity. `context_kept`: the style of the forgotten thing's
    pictures, or the thing in the forgotten style's. `neighbours`: the share of the look-alikes that is right, for one concept with others beside them.
    Things of a checkpoint are asked for in no style: they have no CRA and no `context_kept`.
    """
    own, context = (1, 0) if _first(task).group == "style" else (0, 1)
    found = {}
    for when in ("before", "after"):
        share = {name: _right(pictures, when) for name, pictures in shown.items()}
        erased, generality = share["target"][own], share["synonym"][own]
        ira, cra = share["others"][own], share["others"][context]
        values = {"UA": 1 - erased, "erased": erased, "generality": generality, "IRA": ira, "CRA": cra}
        values |= {"H_o": harmonic_mean_of_erasure(erased, ira, generality), "context_kept": share["target"][context]}
        values["neighbours"] = _neighbours(task, shown["others"], own, when)
        known = {k: round(v, 6) for k, v in values.items() if v is not None}
        found |= {k if when == "after" else f"{k}_before": v for k, v in known.items()}
    return found


def _neighbours(task: Task, others: Pictures, own: int, when: str) -> float | None:
    """None where all of the others are neighbours too, as the miniature's styles: their share is IRA."""
    seen = (others.seen_before if when == "before" else others.seen_after)[own]
    asked = (others.ask.concepts, others.ask.styles)[own]
    pairs = [(a, b) for a, b in zip(seen, asked) if b in _first(task).neighbours]
    return retain_accuracy(*zip(*pairs)) if len(task.concepts) == 1 and 0 < len(pairs) < len(asked) else None


def _right(pictures: Pictures, when: str) -> list[Any]:
    """Shares of right concepts and right styles; None where none was asked for."""
    seen = pictures.seen_before if when == "before" else pictures.seen_after
    asked = pictures.ask.concepts, pictures.ask.styles
    return [retain_accuracy(s, a) if any(a) else None for s, a in zip(seen, asked)]


def _beside(world: Any, shown: dict[str, Pictures]) -> dict[str, Any]:
    """Scores that need pictures only: drift, distances, CLIP scores."""
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
    if model is None or _first(task).group == "style":
        return {}
    names = task.concepts
    if len(names) > 1:
        names = [names[(task.seed * ATTACKED_OF_SEVERAL + k) % len(names)] for k in range(ATTACKED_OF_SEVERAL)]
    seed = FIRST_SEED + SEED_STEP * task.seed + 500
    about = [world.steps, world.guidance, seed, *attack_sources()]
    base = [
        world.kept.figures("attack", [n, *about], lambda n=n: one_attack(world, n, world.untouched, seed=seed))
        for n in names
    ]
    after = [one_attack(world, n, model, seed=seed) for n in names]
    return {"attacked": sum(after) / len(after), "attacked_base": sum(base) / len(base)}


def attack_sources() -> list[str]:
    """The text of every module that an attack's figures depend on. Raises FileNotFoundError when one was moved."""
    return [(REPOSITORY / path).read_text(encoding="utf-8") for path in ATTACK_SOURCES]
