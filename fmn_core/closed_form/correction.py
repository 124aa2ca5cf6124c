"""Concept correction: forgets the dominant meaning of a word, so that its other meanings come back."""

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
from .targets import TargetPair

# The other meanings come back well before the preserve set starts to move, so that keeping may count twice.
PRESERVATION = 2.0


def correction_pairs(word: str, contexts: list[str], inverted: Concept) -> list[TargetPair]:
    """Target pairs of a correction: the bare word and the inverted tokens go to each of the word's other contexts.

    Notes
    -----
    Forget-Me-Not sends the inverted tokens to nothing. They hold more than the meaning, such as how the pictures were drawn, and an edit that
    takes that away takes it from everything: on the miniature, other things were lost in 0.7 of the pictures after 180 steps for "apple".
    """
    return [
        TargetPair(name, fill_template(template, name.text), fill_template(template, context), number, Name(context))
        for name in (Name(word), *inverted.names())
        for number, template in enumerate(inverted.templates)
        for context in contexts
    ]


def check_meanings(model: TextModel, word: str, contexts: list[str]) -> None:
    """Raises ForgetError where there are no contexts, and on a word or context without tokens."""
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
    """Solves for a patch that takes its dominant meaning from a word.

    Parameters
    ----------
    contexts
        Phrases in which the word has its other meanings, such as "green apple". They are preserved, and the bare word is made to act
        like them.
    inverted
        The dominant meaning as a learned embedding (see `invert_concept`), which is made to act like the contexts too.
    progress
        See `forget_closed_form`.

    Raises
    ------
    ForgetError
        Without contexts, and on input that the model cannot be solved for.

    Notes
    -----
    Forget-Me-Not, section 3.5 (concept correction and disentanglement), with the closed form in place of the training.
    """
    check_meanings(model, word, contexts)
    check_concepts(model, [inverted])
    settings = settings or ClosedFormSettings(preservation=PRESERVATION)
    settings = replace(settings, preserve_prompts=[*contexts, *settings.preserve_prompts])
    patch = forget_closed_form(model, [inverted], settings, progress, correction_pairs(word, contexts, inverted))
    patch.concepts = [{**inverted.as_dict(), "corrects": word, "contexts": list(contexts)}]
    patch.settings["method"] = "concept correction"
    return patch
