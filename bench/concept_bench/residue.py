"""How much of a forgotten concept is left in its pictures, by measures that do not depend on the judge's first choice.

A picture may keep a dog's face while the judge, asked for one name, says owl. `residue_probability` is the probability
that the judge gives the concept; `residue_similarity` compares its features with those of two pictures of the untouched
model at the same seed: of the same prompt, and of the ablated prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from bench.concept_bench.concepts import list_of, load_list
from bench.concept_bench.tasks import Task
from bench.world import Ask
from mini_sd.concepts import STYLE_NAMES
from mini_sd.judge import CLASS_NAMES, Judge, features, probabilities

# Below this mean distance, the ablated prompt's pictures are those of the concept, and nothing can be compared.
LEAST_DISTANCE = 1e-3


def without_phrases(prompt: str, phrases: Sequence[str]) -> str:
    """The ablated prompt: every whole-word occurrence of a phrase deleted; articles stay."""
    alternatives = "|".join(re.escape(p) for p in sorted(phrases, key=len, reverse=True))
    return " ".join(re.sub(rf"\b(?:{alternatives})\b", " ", prompt).split())


def ablated_ask(task: Task, ask: Ask) -> Ask:
    """The ask with the names and synonyms of the task's concepts deleted from its prompts, at the same seeds."""
    listed = load_list(list_of(task.model))
    phrases = [phrase for name in task.concepts for phrase in (name, *listed[name].synonyms)]
    return Ask([without_phrases(p, phrases) for p in ask.prompts], ask.seeds, ask.concepts, ask.styles)


def residue_figures(
    judge: Judge, task: Task, ask: Ask, before: torch.Tensor, after: torch.Tensor, ablated: torch.Tensor
) -> dict[str, float]:
    """`residue_probability`, the same `_before`, and `residue_similarity`, which is left out where it is not defined.

    Parameters
    ----------
    ask
        The target pictures of the task.
    before, after, ablated
        Pictures (B, H, W, 3) in 0..1 at the same seeds: of the untouched model, after forgetting, and of the untouched
        model on the ablated prompts.
    """
    is_style = load_list(list_of(task.model))[task.concepts[0]].group == "style"
    labels = ask.styles if is_style else ask.concepts
    figures: dict[str, float | None] = {
        "residue_probability": mean_probability(judge, after, labels, is_style),
        "residue_probability_before": mean_probability(judge, before, labels, is_style),
        "residue_similarity": excess_similarity(*(features(judge, images) for images in (after, before, ablated))),
    }
    return {name: round(value, 6) for name, value in figures.items() if value is not None}


def mean_probability(judge: Judge, images: torch.Tensor, labels: Sequence[str], is_style: bool) -> float:
    """Mean softmax probability, 0..1, that the judge gives each picture's label, a concept or a style.

    Notes
    -----
    Label smoothing in the judge's training keeps the probability of a certain picture below 1. The measure is 0 for a
    picture that looks like the concept and that the judge is sure to be something else; excess_similarity is not.
    """
    concepts, styles = probabilities(judge, images)
    names, given = (STYLE_NAMES, styles) if is_style else (CLASS_NAMES, concepts)
    index = torch.tensor([names.index(label) for label in labels])
    return float(given.gather(1, index[:, None]).double().mean())


def excess_similarity(after: torch.Tensor, concept: torch.Tensor, ablated: torch.Tensor) -> float | None:
    """Similarity of pictures to the concept's pictures beyond that of the ablated prompt's pictures.

    Parameters
    ----------
    after, concept, ablated
        Features (B, D), row by row of the same prompt and seed: after forgetting, of the untouched model, and of the
        untouched model on the ablated prompt.

    Returns
    -------
    float or None
        1: as similar to the concept's pictures as they are themselves (nothing forgotten). 0: no more similar than the
        ablated prompt's pictures. Below 0: less similar. None where the ablated prompt's pictures are the concept's.

    Notes
    -----
    With the cosine s, f after forgetting, a of the concept and b of the ablated prompt:
    sum over pictures of s(f, a) - s(b, a), divided by the sum of 1 - s(b, a). One ratio of sums, and not a mean of
    ratios, because the ablated prompt sometimes draws the concept, which leaves a ratio without a scale.

    The position of f between b and a, (f - b)(a - b) / |a - b|^2, has the same values 0 and 1 but is 1/2 for every
    picture that resembles neither, such as those of a substitute.
    """
    after, concept, ablated = (F.normalize(x.double(), dim=1) for x in (after, concept, ablated))
    floor = (ablated * concept).sum(1)
    distance = (1 - floor).sum()
    if distance < LEAST_DISTANCE * len(floor):
        return None
    return float(((after * concept).sum(1) - floor).sum() / distance)
