"""Texts in which `{phrase}` stands for what is forgotten: file names and test prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...fmn_core.concepts.concept import Concept
from ...fmn_core.errors import ForgetError

PHRASE = "{phrase}"
_LONGEST_IN_NAME = 40


def file_name_of(text: str, concepts: Sequence[Concept]) -> str:
    """A file name with `{phrase}` replaced by the first phrase, without characters that a file name should not hold."""
    plain = re.sub(r"\W+", "_", first_phrase(concepts)).strip("_") or "concept"
    return text.replace(PHRASE, plain[:_LONGEST_IN_NAME])


def prompts_of(text: str, phrase: str) -> str:
    """Prompts with `{phrase}` replaced.

    Raises
    ------
    ForgetError
        A prompt holds `{phrase}`, and there is no phrase.
    """
    if PHRASE in text and not phrase:
        raise ForgetError(
            f"Expected a phrase for {PHRASE} in the prompts, got none. Connect the patch, or write the prompts in full."
        )
    return text.replace(PHRASE, phrase)


def first_phrase(concepts: Sequence[Concept]) -> str:
    """The first phrase of several concepts; empty where embeddings alone name them."""
    return next((phrase for concept in concepts for phrase in concept.phrases), "")


def test_prompt(text: str, concepts: Sequence[Concept]) -> str:
    """The prompt of a test picture: `text`, or where it is empty, the first template of the first concept with a phrase.

    Raises
    ------
    ForgetError
        On a prompt that names none of the concepts, because its pictures would show nothing of what was forgotten.
    """
    phrase = first_phrase(concepts)
    if not text.strip():
        templates = [c.templates[0] for c in concepts if c.phrases and c.templates] or ["{}"]
        return templates[0].replace("{}", phrase)
    prompt = prompts_of(text.strip(), phrase)
    phrases = [p.lower() for c in concepts for p in c.phrases]
    if phrases and not any(p in prompt.lower() for p in phrases):
        raise ForgetError(
            f"Expected a test prompt that names what is forgotten ({', '.join(phrases[:3])}), got {prompt[:200]!r}. "
            f"Write {PHRASE} in it, or leave it empty."
        )
    return prompt
