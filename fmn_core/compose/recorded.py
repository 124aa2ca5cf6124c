"""The training that a patch's metadata records: its concepts, target pairs, settings, weights and moments."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ..closed_form.collect import Halves, encode_solve, pooled_moments, solve_rows
from ..closed_form.correction import correction_pairs
from ..closed_form.settings import ClosedFormSettings
from ..closed_form.targets import ABLATED, SUBSTITUTE, TargetPair, template_pairs
from ..concepts.concept import Concept, concept_from_dict
from ..concepts.preserve import IMAGINED_WORDS, preserve_groups, without_concepts
from ..errors import ForgetError
from ..model.entries import CONTEXT, POOLED, Reads
from ..model.protocol import TextModel
from ..patch.patch import ForgetPatch

_SOLVED = ("closed form", "concept correction", "fusion")


def recorded_concepts(patch: ForgetPatch) -> list[Concept]:
    """The concepts that a patch forgets.

    Raises
    ------
    ForgetError
        Where the metadata names no concepts, or lacks the vectors of one.
    """
    restored = [concept_from_dict(record) for record in patch.concepts]
    concepts = [c for c in restored if c is not None]
    if not restored:
        raise ForgetError(
            "Expected forget patches with metadata, got a LoRA without (or another tool's): what it forgets is unknown. "
            "It can only be summed: choose the sum, or leave it out."
        )
    if len(concepts) < len(restored):
        raise ForgetError(
            "Expected patches that say what they forget, got one with an inverted concept whose vectors are not in its metadata. "
            "Merge it by sum, or leave it out."
        )
    return concepts


def gated_concepts(patch: ForgetPatch) -> list[Concept]:
    """The concepts that a gate looks for: those that a patch forgets, with the synonyms that its training named.

    Raises
    ------
    ForgetError
        As recorded_concepts does.

    Notes
    -----
    A patch acts on the words that its model takes for the concept, whether they were listed or not. A word that is kept is left out.
    """
    concepts = recorded_concepts(patch)
    known = {phrase.strip().lower() for concept in concepts for phrase in concept.phrases}
    known |= {line.strip().lower() for line in recorded_settings(patch).preserve_prompts}
    further = [word for word in patch.figures.get("synonyms", {}) if word.lower() not in known]
    named = next((concept for concept in concepts if concept.phrases), None)
    if named is None or not further:
        return concepts
    # The figures do not say whose synonym a word is. The gate compares prompts with the nearest name of all, so any concept may have it.
    return [replace(c, phrases=[*c.phrases, *further]) if c is named else c for c in concepts]


def recorded_pairs(patch: ForgetPatch) -> list[TargetPair]:
    """The target pairs that a patch was made for; raises as recorded_concepts does."""
    pairs, settings = [], recorded_settings(patch)
    for record, concept in zip(patch.concepts, recorded_concepts(patch)):
        if record.get("corrects"):
            pairs += correction_pairs(str(record["corrects"]), list(record.get("contexts", [])), concept)
        else:
            pairs += template_pairs([concept], settings.target, settings.substitute, settings.overshoot)
    return pairs


def recorded_settings(patch: ForgetPatch) -> ClosedFormSettings:
    """The closed form's settings of a patch; the default in place of each one that is absent or malformed."""
    usable: dict[str, Any] = {}
    for name, default in asdict(ClosedFormSettings()).items():
        value: Any = patch.settings.get(name)
        if type(value) is type(default):
            if name == "imagined_words":
                value = min(max(0, value), 4 * IMAGINED_WORDS)
            with contextlib.suppress(ForgetError):
                ClosedFormSettings(**{name: value})
                usable[name] = value
    settings = ClosedFormSettings(**usable)
    if settings.target == SUBSTITUTE and not settings.substitute.strip():
        return replace(settings, target=ABLATED)
    return settings


def recorded_weights(patch: ForgetPatch, reads: Reads = CONTEXT) -> tuple[float, float] | None:
    """The ridge and preserve weight of a patch's solve for the layers that read the same.

    Returns
    -------
    None for patches that were not solved in closed form, and for those whose moments the text encoder alone cannot reproduce.
    """
    figures = patch.figures if reads == CONTEXT else patch.figures.get("pooled", {})
    figures = figures if isinstance(figures, dict) else {}
    ridge, weight = figures.get("ridge"), figures.get("preserve_weight")
    if not (isinstance(ridge, float) and isinstance(weight, float) and 0 < ridge < 1e6 and 0 < weight < 1e6):
        return None
    # Attack rounds added rows to the moments that were learned on the UNet.
    searched = bool(patch.settings.get("attack_rounds"))
    return (ridge, weight) if patch.settings.get("method") in _SOLVED and not searched else None


def recorded_words(patch: ForgetPatch) -> list[str]:
    """The words of the vocabulary that a patch's training preserved."""
    return list(patch.settings.get("kept_words", []))


def training_moments(
    text: TextModel,
    concepts: list[Concept],
    settings: ClosedFormSettings,
    pairs: list[TargetPair],
    words: Sequence[str] = (),
) -> dict[Reads, Halves]:
    """The two halves of the moments that a closed-form training on these concepts, target pairs and kept words collects.

    Those of the pooled embedding are left out where the text encoders give none.
    """
    # What one patch keeps, another may forget.
    kept = without_concepts(text, concepts, list(words))
    preserve = preserve_groups(text, concepts, settings.preserve_prompts, settings.use_everyday_captions, kept)
    encoded = encode_solve(text, concepts, preserve, settings.imagined_words, pairs)
    pooled = pooled_moments(encoded)
    moments: dict[Reads, Halves] = {CONTEXT: solve_rows(text, encoded).moments()}
    if pooled is not None:
        moments[POOLED] = pooled
    return moments
