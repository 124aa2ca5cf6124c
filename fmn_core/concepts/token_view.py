"""The tokens of a prompt as the web page shows them, with the concept columns marked, and warnings about phrases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..model.tokens import CHUNK, Vocabulary, concept_columns, end_columns, strip_special

# The model encodes longer prompts whole, but a page cannot show a thousand chips.
MOST_TOKENS = 300


def token_view(
    tokens: dict[str, list[list[int]]],
    phrases: dict[str, dict[str, list[int]]],
    vocabulary: Vocabulary,
    end_token: str,
    word_of: Callable[[str, int], str],
) -> dict[str, Any]:
    """Describes the tokens of a prompt as chips, of the first text encoder, and warns about its phrases.

    Parameters
    ----------
    tokens
        Token ids of the prompt per text encoder and chunk of 77.
    phrases
        Token ids per text encoder, by the text of each phrase.
    vocabulary
        The special tokens.
    end_token
        Which end tokens count as concept columns, one of END_TOKEN_CHOICES.
    word_of
        Returns the text of a token, given the encoder and the id.

    Returns
    -------
    {"chips": [{"text", "column", "lit", "end"}, ...], "warnings": [...]}. "lit" marks concept columns. Padding is left out, except
    the end token. Warnings name a phrase that is absent, split between two chunks, or longer than a chunk.
    """
    encoder = next(iter(tokens))
    columns = set()
    for ids in phrases.values():
        columns |= set(concept_columns(tokens, {name: [i] for name, i in ids.items() if i}, vocabulary, end_token))
    chips = []
    for number, chunk in enumerate(tokens[encoder]):
        ends = end_columns(chunk, vocabulary, "first")
        for position, token in enumerate(chunk[: ends[0] + 1] if ends else chunk):
            if token != vocabulary.start:
                column, end = number * CHUNK + position, position in ends
                text = "end" if end else word_of(encoder, token)
                chips.append({"text": text, "column": column, "lit": column in columns, "end": end})
    warnings = [w for text, ids in phrases.items() for w in _phrase_warnings(text, ids, tokens, vocabulary)]
    if len(chips) > MOST_TOKENS:
        warnings.append(f"{len(chips) - MOST_TOKENS} more tokens are not shown")
    return {"chips": chips[:MOST_TOKENS], "warnings": warnings}


def _phrase_warnings(
    text: str, phrase: dict[str, list[int]], tokens: dict[str, list[list[int]]], vocabulary: Vocabulary
) -> list[str]:
    if max((len(ids) for ids in phrase.values()), default=0) > CHUNK - 2:
        return [f"'{text}' is longer than {CHUNK - 2} tokens and cannot be found in any prompt: shorten it"]
    if concept_columns(tokens, {name: [ids] for name, ids in phrase.items() if ids}, vocabulary, "none"):
        return []
    if any(_contains(_prompt_ids(tokens[name], vocabulary), ids) for name, ids in phrase.items() if ids):
        return [f"'{text}' is split between two chunks of the prompt: move it, or shorten what stands before it"]
    return [f"'{text}' is not in the prompt"]


def _prompt_ids(chunks: list[list[int]], vocabulary: Vocabulary) -> list[int]:
    """The ids of all chunks, without the start, end and padding of each."""
    return [i for chunk in chunks for i in strip_special([chunk], vocabulary)]


def _contains(ids: list[int], phrase: list[int]) -> bool:
    return any(ids[k : k + len(phrase)] == phrase for k in range(len(ids) - len(phrase) + 1))
