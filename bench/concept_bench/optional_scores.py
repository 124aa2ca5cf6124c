"""Scores of pictures by an image-text model, and the M-Score."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from bench.concept_bench.tasks import Task
from bench.world import Ask, World
from fmn_core.concepts.templates import default_templates
from fmn_core.errors import ForgetError
from fmn_core.scores.clip_score import ImageTextModel, clip_score
from fmn_core.scores.distances import distance
from fmn_core.scores.m_score import m_score
from fmn_core.training.inversion import InversionSettings
from fmn_core.training.references import References
from mini_sd.concepts import STYLE_NAMES, drawn_styles
from mini_sd.image_text import MiniatureImageText

# Two inversions with enough steps cost more than all other scores, so the M-Score is that of one concept and one seed.
M_SCORE_CONCEPT, M_SCORE_SEED, M_SCORE_ASK, M_SCORE_PICTURES = "cat", 0, "full", 4
M_SCORE = {"tokens": 1, "steps": 100, "warmup": 10, "batch": 4, "learning_rate": 2e-2, "start": "noise", "seed": 0}


@lru_cache(maxsize=1)
def _image_text(world: Any) -> ImageTextModel | None:
    """The world's own image-text model, None where it says that there is none, or the miniature's."""
    return world.image_text if hasattr(world, "image_text") else MiniatureImageText(world.clip)


def clip_scores(world: Any, name: str, images: torch.Tensor, prompts: list[str]) -> dict[str, float]:
    """CLIP score, the mean cosine of pictures and their prompts, under the key `name`; none without an image-text model."""
    model = _image_text(world)
    return {} if model is None else {name: clip_score(model, images, prompts)}


def distances(world: Any, before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    """KID, where its package is installed, and CMMD between pictures before and after; none without an image-text model.

    Notes
    -----
    With so few pictures the figures rank methods, and are not comparable with published ones.
    """
    model, scores = _image_text(world), dict[str, float]()
    for measure in () if model is None else ("KID", "CMMD"):
        try:
            scores[measure.lower()] = distance(measure, model.images, before, after)
        except ForgetError as error:
            if "package" not in str(error):
                raise
    return scores


def m_scores(world: World, task: Task, model: Any) -> dict[str, float]:
    """The M-Score of M_SCORE_CONCEPT for one seed of a full run; empty for other tasks and without a MODEL.

    Notes
    -----
    Text features: see m_score.pooled_features. Source: Zhang et al., Forget-Me-Not.
    """
    is_scored = (task.concepts, task.seed, task.ask) == ((M_SCORE_CONCEPT,), M_SCORE_SEED, M_SCORE_ASK)
    if model is None or not is_scored:
        return {}
    [name] = task.concepts
    kind = "style" if name in STYLE_NAMES else "object"
    original, forgetting = (
        world.adapter_class(m, world.clip) for m in (getattr(world, "untouched", world.model), model)
    )
    with torch.inference_mode(False):
        images = world.sample(_reference_ask(name)).clone()
        references = References(original.encode_images(images, world.vae))
        arguments = (original, forgetting, references, name, default_templates(kind)[:4])
        settings = InversionSettings(**M_SCORE)
        score = m_score(*arguments, settings, ready=lambda m: m.ready_for_gradients(text=True))
    return {"m_score_before": score.before, "m_score_after": score.after}


def _reference_ask(name: str) -> Ask:
    """Prompts of the concept's pictures that the inversions learn from."""
    ask = Ask()
    for k in range(M_SCORE_PICTURES):
        if name in STYLE_NAMES:
            ask.add(("cat", "car", "banana", "guitar")[k], "", name, k, 60_000 + k)
        else:
            ask.add(name, name, drawn_styles(name)[k % len(drawn_styles(name))], k, 60_000 + k)
    return ask
