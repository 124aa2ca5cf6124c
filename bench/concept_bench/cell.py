"""Measures one cell of ConceptBench: a method forgets, and pictures before and after are scored."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import torch

from bench.attack import one_attack
from bench.concept_bench.asks import FIRST_SEED, SEED_STEP, SIZES, styles_in_templates
from bench.concept_bench.checkpoint_world import CheckpointWorld
from bench.concept_bench.concepts import BenchConcept, list_of, load_list
from bench.concept_bench.flux_world import FluxBenchWorld
from bench.concept_bench.method_registry import methods_of
from bench.concept_bench.miniature_world import BenchWorld
from bench.concept_bench.optional_scores import clip_scores, distances, m_scores
from bench.concept_bench.residue import ablated_ask, residue_figures
from bench.concept_bench.tasks import Task
from bench.cost import measure_cost
from bench.picture_figures import drift
from bench.world import Ask
from fmn_core.scores.accuracies import harmonic_mean_of_erasure, retain_accuracy
from tools.comfy_host import REPOSITORY

# Number of attacked concepts where several are forgotten at once; the seed decides which.
ATTACKED_OF_SEVERAL = 2
# A change of one of these makes the attacks on the untouched model again.
ATTACK_SOURCES = (
    "bench/attack.py",
    "fmn_core/attacks/search.py",
    "fmn_core/training/inversion.py",
    "fmn_core/training/noised_batches.py",
)


@dataclass
class JudgedPictures:
    """Pictures (B, H, W, 3) of an ask before and after forgetting, and what the judge sees in them."""

    ask: Ask
    before: torch.Tensor
    after: torch.Tensor
    seen_before: tuple[list[str], list[str]]
    seen_after: tuple[list[str], list[str]]


def measure_task(world: BenchWorld | FluxBenchWorld | CheckpointWorld, task: Task) -> dict[str, Any]:
    """The figures of a task.

    Returns
    -------
    dict
        Shares are 0..1; `seconds` and `peak_mb` are those of forgetting alone. UA, IRA, CRA, H_o: see accuracies_of.
        `drift`: mean squared error of pictures that should stay. `attacked`, `attacked_base`: share of pictures that show
        the concept under an embedding searched on the patched and on the untouched model, for things of the miniature.
        `residue_probability`, `residue_similarity`: see residue; `styles_in_templates`: see asks; of the miniature.
        `setting`: how another model was measured.

    Raises
    ------
    KeyError
        On a method that does not exist; other errors come from the method.

    Notes
    -----
    Other models than the miniature are not attacked, because the search (bench/attack.py) uses the miniature's styles, and have no M-Score.
    """
    started, method = time.perf_counter(), methods_of(task.model)[task.method]
    asks = world.asks(task)
    before = {name: world.sample(ask) for name, ask in asks.items()}
    ablated = None if world.setting is not None else world.sample(ablated_ask(task, asks["target"]))
    with contextlib.ExitStack() as stack:
        cpu_started = time.process_time()
        with measure_cost() as cost:
            applied = stack.enter_context(method(world, *task.concepts, seed=task.seed))
        cpu_seconds = time.process_time() - cpu_started
        render = applied.sampler or (lambda ask: world.sample(ask, applied.model))
        judged = {name: _judge(world, task, ask, before[name], render(ask)) for name, ask in asks.items()}
        figures = accuracies_of(task, judged) | _picture_scores(world, judged)
        if world.setting is not None:
            figures |= {"setting": world.setting}
        elif ablated is not None:
            figures |= _held_out_figures(world, task, judged["target"], ablated)
            if SIZES[task.ask].costly:
                figures |= _attacks(world, task, applied.model) | m_scores(world, task, applied.model)
    figures |= {
        "seconds": cost.seconds,
        "own_seconds": applied.seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mb": cost.peak_mb,
    }
    return figures | {"artefact_bytes": applied.patch_bytes, "cell_seconds": time.perf_counter() - started}


def _judge(world: Any, task: Task, ask: Ask, before: torch.Tensor, after: torch.Tensor) -> JudgedPictures:
    return JudgedPictures(ask, before, after, world.judged(task, before), world.judged(task, after))


def _held_out_figures(world: BenchWorld, task: Task, target: JudgedPictures, ablated: torch.Tensor) -> dict[str, float]:
    """Residue in the target's pictures, and how many of the miniature's styles the templates of the pack name."""
    residue = residue_figures(world.judge, task, target.ask, target.before, target.after, ablated)
    return residue | {"styles_in_templates": styles_in_templates(_first_concept(task).group)}


def _first_concept(task: Task) -> BenchConcept:
    """The concept whose group and neighbours stand for the task's."""
    return load_list(list_of(task.model))[task.concepts[0]]


def accuracies_of(task: Task, judged: dict[str, JudgedPictures]) -> dict[str, float]:
    """UA, ua_contexts, IRA, CRA, H_o and their terms, after and (with the suffix `_before`) before forgetting.

    Notes
    -----
    For a thing, UA is measured on its pictures, IRA is the share of other things that are right, and CRA the share of
    their styles. For a style, UA is measured on pictures in it, IRA is the share of other styles that are right, and
    CRA the share of the things in them. `ua_contexts` is UA of the ask `contexts`, where there is one. H_o takes IRA as
    specificity. `context_kept`: share of right styles in the forgotten thing's pictures, or of right things in the
    forgotten style's. `neighbours`: share of right look-alikes, where others are drawn besides them. Prompts of a
    checkpoint's things name no style, so they have no CRA and no `context_kept`.
    """
    subject, context = (1, 0) if _first_concept(task).group == "style" else (0, 1)
    accuracies = {}
    for when in ("before", "after"):
        share = {name: _right_shares(pictures, when) for name, pictures in judged.items()}
        erased, generality = share["target"][subject], share["synonym"][subject]
        ira, cra = share["others"][subject], share["others"][context]
        figures = {"UA": 1 - erased, "erased": erased, "generality": generality, "IRA": ira, "CRA": cra}
        figures |= {"H_o": harmonic_mean_of_erasure(erased, ira, generality), "context_kept": share["target"][context]}
        figures["ua_contexts"] = 1 - share["contexts"][subject] if "contexts" in share else None
        figures["neighbours"] = _neighbour_share(task, judged["others"], subject, when)
        rounded = {k: round(v, 6) for k, v in figures.items() if v is not None}
        accuracies |= {k if when == "after" else f"{k}_before": v for k, v in rounded.items()}
    return accuracies


def _neighbour_share(task: Task, others: JudgedPictures, subject: int, when: str) -> float | None:
    """Share of right neighbours; None where all others are neighbours, because it equals IRA there."""
    seen = (others.seen_before if when == "before" else others.seen_after)[subject]
    asked = (others.ask.concepts, others.ask.styles)[subject]
    pairs = [(a, b) for a, b in zip(seen, asked) if b in _first_concept(task).neighbours]
    return retain_accuracy(*zip(*pairs)) if len(task.concepts) == 1 and 0 < len(pairs) < len(asked) else None


def _right_shares(pictures: JudgedPictures, when: str) -> list[Any]:
    """Shares of right concepts and of right styles; None where the prompts name none."""
    seen = pictures.seen_before if when == "before" else pictures.seen_after
    asked = pictures.ask.concepts, pictures.ask.styles
    return [retain_accuracy(s, a) if any(a) else None for s, a in zip(seen, asked)]


def _picture_scores(world: Any, judged: dict[str, JudgedPictures]) -> dict[str, Any]:
    """Scores of pictures without the judge: drift, distances, CLIP scores."""
    others, target = judged["others"], judged["target"]
    counts = {name: len(pictures.ask.prompts) for name, pictures in judged.items()}
    scores = {"drift": drift(others.before, others.after), "pictures": counts}
    for name, pictures in (("target", target), ("others", others)):
        for when, images in (("before", pictures.before), ("after", pictures.after)):
            scores |= clip_scores(world, f"clip_{name}_{when}", images, pictures.ask.prompts)
    return scores | distances(world, others.before, others.after)


def _attacks(world: BenchWorld, task: Task, model: Any) -> dict[str, float]:
    """Attack figures, means over the attacked concepts; none for styles, and for a method without a MODEL to attack.

    Notes
    -----
    On the untouched model the search brings no style into more than one in four pictures, which is chance.
    """
    if model is None or _first_concept(task).group == "style":
        return {}
    names = task.concepts
    if len(names) > 1:
        names = [names[(task.seed * ATTACKED_OF_SEVERAL + k) % len(names)] for k in range(ATTACKED_OF_SEVERAL)]
    seed = FIRST_SEED + SEED_STEP * task.seed + 500
    inputs = [world.steps, world.guidance, seed, *attack_sources()]
    base = [
        world.baseline_cache.figures(
            "attack", [n, *inputs], lambda n=n: one_attack(world, n, world.untouched, seed=seed)
        )
        for n in names
    ]
    after = [one_attack(world, n, model, seed=seed) for n in names]
    return {"attacked": sum(after) / len(after), "attacked_base": sum(base) / len(base)}


def attack_sources() -> list[str]:
    """Texts of the modules that an attack's figures depend on; raises FileNotFoundError when one was moved."""
    return [(REPOSITORY / path).read_text(encoding="utf-8") for path in ATTACK_SOURCES]
