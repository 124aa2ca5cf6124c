"""Memorization score (M-Score): how much of a concept is still found when its pictures are inverted on the forgetting model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..concepts.concept import MAX_PHRASE_TOKENS
from ..concepts.templates import check_templates, fill_template
from ..errors import ForgetError
from ..model.protocol import ForgetModel, TextModel
from ..model.tokens import PLACEHOLDER, LearnedEmbedding, first_end
from ..training.inversion import Inversion, InversionSettings, invert_concept
from ..training.references import References

TextFeatures = Callable[[str, LearnedEmbedding | None], torch.Tensor]


@dataclasses.dataclass
class MScore:
    """Cosines of inverted prompts with prompts that name the concept, -1..1: a lower `after` means forgotten.

    `before`, `after`: means over the templates, whose own values are in `each_before` and `each_after`.
    """

    before: float
    after: float
    each_before: list[float]
    each_after: list[float]
    original: Inversion
    forgetting: Inversion


def m_score(
    original: ForgetModel,
    forgetting: ForgetModel,
    references: References,
    concept_phrase: str,
    templates: Sequence[str],
    settings: InversionSettings | None = None,
    text_features: TextFeatures | None = None,
    ready: Callable[[Any], contextlib.AbstractContextManager] = contextlib.nullcontext,
    progress: Callable[[int, int, dict], bool | None] | None = None,
) -> MScore:
    """before = cos(emb_r, emb_o), after = cos(emb_r, emb_f), each a mean over the templates.

    The references, probe pictures of the concept, are inverted to token embeddings on each model, with the same settings, seeds and
    start, which must not be the concept's words: noise or mean. emb_o and emb_f are text features of a template holding them, emb_r of
    the template naming the concept. `text_features(prompt, word)` -> (D,), the word standing at PLACEHOLDER; left out, the original
    model's own, see pooled_features. `ready(model)` is entered around each inversion. `progress` counts the steps of both.
    Raises ForgetError on a start from words, a phrase without tokens, no templates, and what invert_concept raises.
    Source: Zhang et al., Forget-Me-Not (Memorization score).
    """
    settings = settings or InversionSettings(start="noise")
    _check(original, settings, concept_phrase, templates)
    features = text_features or pooled_features(original)
    inversions = []
    for number, model in enumerate((original, forgetting)):
        with ready(model):
            on_step = _progress_of_one(progress, number * settings.steps)
            inversions.append(invert_concept(model, references, list(templates), settings, progress=on_step))
    anchors = [features(fill_template(template, concept_phrase), None) for template in templates]
    before, after = (_cosines(features, templates, anchors, inversion.word) for inversion in inversions)
    return MScore(sum(before) / len(before), sum(after) / len(after), before, after, *inversions)


def _check(model: ForgetModel, settings: InversionSettings, phrase: str, templates: Sequence[str]) -> None:
    if settings.start == "words":
        raise ForgetError(
            "Expected a start that does not name the concept (noise or mean), got words: the score would measure them."
        )
    longest = max(len(ids) for ids in model.phrase_tokens(phrase).values())
    if not 1 <= longest <= MAX_PHRASE_TOKENS:
        raise ForgetError(
            f"Expected a phrase of 1 to {MAX_PHRASE_TOKENS} tokens, got {longest}. Type the concept's name."
        )
    if not templates:
        raise ForgetError("Expected templates with one {} each, got none. Leave them to the kind of concept.")
    check_templates(templates)


def _progress_of_one(progress: Callable[[int, int, dict], bool | None] | None, done_before: int) -> Any:
    """Progress of one of the two inversions, whose steps must be the same number: neither can be ended early."""
    if progress is None:
        return None

    def on_step(done: int, total: int, figures: dict) -> None:
        progress(done_before + done, 2 * total, figures)

    return on_step


def _cosines(
    features: TextFeatures, templates: Sequence[str], anchors: list[torch.Tensor], word: LearnedEmbedding
) -> list[float]:
    inverted = [features(fill_template(template, PLACEHOLDER), word) for template in templates]
    return [float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for a, b in zip(anchors, inverted)]


def pooled_features(model: TextModel) -> TextFeatures:
    """Features of a prompt from a model's own text encoder: its pooled output, or the row that CLIP pools, at the first end token."""

    def features(prompt: str, word: LearnedEmbedding | None) -> torch.Tensor:
        [encoded] = model.encode([prompt], [word])
        if encoded.pooled is not None:
            return encoded.pooled.flatten()
        end = max(first_end(chunks[0], model.vocabulary) for chunks in encoded.tokens.values())
        return encoded.context[end]

    return features
