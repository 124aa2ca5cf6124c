"""Concept correction: of a word's several meanings, the one that dominates is forgotten and the others come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..concepts.concept import Concept, Name, check_concepts
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import ForgetModel, TextModel
from ..patch.patch import ForgetPatch
from .forget import forget_closed_form
from .settings import ClosedFormSettings
from .targets import TargetPair, template_pairs

# Correction has more to give than forgetting: the other meanings come back well before everything else is kept.
PRESERVATION = 2.0


def correction_pairs(word: str, contexts: list[str], inverted: Concept) -> list[TargetPair]:
    """What should act like what: the bare word like its other contexts, in turn, and the inverted tokens like nothing."""
    forgotten = template_pairs([inverted])
    steered = [
        TargetPair(Name(word), fill_template(template, word), fill_template(template, context), number, Name(context))
        for number, template in enumerate(inverted.templates)
        for context in contexts
    ]
    return [*steered, *forgotten]


def check_meanings(model: TextModel, word: str, contexts: list[str]) -> None:
    """Raises ForgetError on a word or a context without tokens, and when there are no contexts."""
    if not contexts:
        raise ForgetError(
            f"Expected at least one context in which {word!r} means something else, got none. Type one, such as 'green {word}'."
        )
    check_concepts(model, [Concept([word, *contexts])])


def correct_concept(
    model: ForgetModel,
    word: str,
    contexts: list[str],
    inverted: Concept,
    settings: ClosedFormSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
) -> ForgetPatch:
    """Solves for a patch that takes the dominant meaning from a word.

    `inverted`: the dominant meaning as vectors that its images were inverted to (see invert_concept), forgotten as in
    forget_closed_form. `contexts`: phrases in which the word has its other meanings ("green apple"); they are preserved,
    and the bare word is made to act like them. Raises ForgetError without contexts and on input that cannot be used. Source: FMN, section 3.5 (concept correction and disentanglement),
    with the closed form in place of the training.
    """
    check_meanings(model, word, contexts)
    check_concepts(model, [inverted])
    settings = settings or ClosedFormSettings(preservation=PRESERVATION)
    settings = replace(settings, preserve_prompts=[*contexts, *settings.preserve_prompts])
    patch = forget_closed_form(model, [inverted], settings, progress, correction_pairs(word, contexts, inverted))
    patch.concepts = [{**inverted.as_dict(), "corrects": word, "contexts": list(contexts)}]
    patch.settings["method"] = "concept correction"
    return patch
