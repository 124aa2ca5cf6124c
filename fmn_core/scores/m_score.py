"""Memorization score (M-Score): how much of a concept concept inversion recovers from the forgetting model."""

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
    """Cosines of inverted prompts with prompts that name the concept, -1..1; a lower `after` means that it was forgotten.

    Parameters
    ----------
    before, after
        Means over the templates, on the original and on the forgetting model.
    each_before, each_after
        Cosine of each template.
    original, forgetting
        The inversions on both models.
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
    """Computes the M-Score: cos(emb_r, emb_o) before and cos(emb_r, emb_f) after forgetting, averaged over the templates.

    Parameters
    ----------
    references
        Pictures of the concept. They are inverted to token embeddings on each model, with the same settings and seeds.
    settings
        Settings of the inversions. They must start from noise or mean, not from the concept's words.
    text_features
        Function (prompt, word) -> features (D,), with the word at PLACEHOLDER; by default those of the original model, see
        pooled_features.
    ready
        Function that gives the context in which a model is inverted.
    progress
        Called as progress(done, total, figures) over the steps of both inversions. It may raise to interrupt.

    Raises
    ------
    ForgetError
        On a start from words, a phrase without tokens, no templates, and what invert_concept raises.

    Notes
    -----
    emb_o and emb_f are features of a template with the vectors that were inverted on the original and on the forgetting model, emb_r of
    the template with the concept's phrase. Source: Zhang et al., Forget-Me-Not (Memorization score).
    """
    settings = settings or InversionSettings(start="noise")
    _check_inputs(original, settings, concept_phrase, templates)
    features = text_features or pooled_features(original)
    inversions = []
    for number, model in enumerate((original, forgetting)):
        with ready(model):
            on_step = _inversion_progress(progress, number * settings.steps)
            inversions.append(invert_concept(model, references, list(templates), settings, progress=on_step))
    phrase_features = [features(fill_template(template, concept_phrase), None) for template in templates]
    before, after = (_cosines(features, templates, phrase_features, inversion.embedding) for inversion in inversions)
    return MScore(sum(before) / len(before), sum(after) / len(after), before, after, *inversions)


def _check_inputs(model: ForgetModel, settings: InversionSettings, phrase: str, templates: Sequence[str]) -> None:
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


def _inversion_progress(progress: Callable[[int, int, dict], bool | None] | None, done_before: int) -> Any:
    """Progress callback of one of the two inversions; it ends none early, because both must run as many steps."""
    if progress is None:
        return None

    def on_step(done: int, total: int, figures: dict) -> None:
        progress(done_before + done, 2 * total, figures)

    return on_step


def _cosines(
    features: TextFeatures, templates: Sequence[str], phrase_features: list[torch.Tensor], word: LearnedEmbedding
) -> list[float]:
    """Cosine, for each template, of its features with the learned embedding and with the phrase."""
    inverted = [features(fill_template(template, PLACEHOLDER), word) for template in templates]
    return [float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for a, b in zip(phrase_features, inverted)]


def pooled_features(model: TextModel) -> TextFeatures:
    """Text features of a model's own encoder: its pooled output or, where there is none, the row of the first end token."""

    def features(prompt: str, word: LearnedEmbedding | None) -> torch.Tensor:
        [encoded] = model.encode([prompt], [word])
        if encoded.pooled is not None:
            return encoded.pooled.flatten()
        end = max(first_end(chunks[0], model.vocabulary) for chunks in encoded.tokens.values())
        return encoded.context[end]

    return features
