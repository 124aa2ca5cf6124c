"""A prompt as the text encoder sees it, for people: its tokens in words, the concept's columns lit, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..model.tokens import CHUNK, Vocabulary, concept_columns, end_columns, strip_special

# Longer prompts are shown in part; the host cuts nothing, but a page would not show a thousand chips.
MOST_TOKENS = 300


def token_view(
    tokens: dict[str, list[list[int]]],
    phrases: dict[str, dict[str, list[int]]],
    vocabulary: Vocabulary,
    end_token: str,
    word_of: Callable[[str, int], str],
) -> dict[str, Any]:
    """Chips and warnings of a prompt.

    `tokens`: ids per encoder and chunk of 77. `phrases`: text of each phrase -> its ids per encoder. `word_of(encoder, id)`: what a
    token says. Returns {"chips": [{"text", "column", "lit", "end"}, ...], "warnings": [...]}, columns as in concept_columns, of the first encoder;
    padding is left out, except the end token. Warnings: a phrase that is absent, that the chunks of a long prompt split, or that is
    longer than a chunk.
    """
    encoder = next(iter(tokens))
    lit = set()
    for ids in phrases.values():
        lit |= set(concept_columns(tokens, {name: [i] for name, i in ids.items() if i}, vocabulary, end_token))
    chips = []
    for number, chunk in enumerate(tokens[encoder]):
        ends = end_columns(chunk, vocabulary, "first")
        for position, token in enumerate(chunk[: ends[0] + 1] if ends else chunk):
            if token != vocabulary.start:
                column, end = number * CHUNK + position, position in ends
                text = "end" if end else word_of(encoder, token)
                chips.append({"text": text, "column": column, "lit": column in lit, "end": end})
    warnings = [w for text, ids in phrases.items() for w in _warnings(text, ids, tokens, vocabulary)]
    if len(chips) > MOST_TOKENS:
        warnings.append(f"{len(chips) - MOST_TOKENS} more tokens are not shown")
    return {"chips": chips[:MOST_TOKENS], "warnings": warnings}


def _warnings(
    text: str, phrase: dict[str, list[int]], tokens: dict[str, list[list[int]]], vocabulary: Vocabulary
) -> list[str]:
    """What a user should know of one phrase in a prompt."""
    if max((len(ids) for ids in phrase.values()), default=0) > CHUNK - 2:
        return [f"'{text}' is longer than {CHUNK - 2} tokens and cannot be found in any prompt: shorten it"]
    if concept_columns(tokens, {name: [ids] for name, ids in phrase.items() if ids}, vocabulary, "none"):
        return []
    whole = any(_holds(_body(tokens[name], vocabulary), ids) for name, ids in phrase.items() if ids)
    if whole:
        return [f"'{text}' is split between two chunks of the prompt: move it, or shorten what stands before it"]
    return [f"'{text}' is not in the prompt"]


def _body(chunks: list[list[int]], vocabulary: Vocabulary) -> list[int]:
    """The ids of all chunks in a row, without start, end and padding of each."""
    return [i for chunk in chunks for i in strip_special([chunk], vocabulary)]


def _holds(ids: list[int], phrase: list[int]) -> bool:
    return any(ids[k : k + len(phrase)] == phrase for k in range(len(ids) - len(phrase) + 1))
