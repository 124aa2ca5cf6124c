"""Tokens of prompts that the host's own nodes encoded, from the texts in the graph that is running."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .chunk_memory import Tokens, encoded_chunks
from .text import token_ids

# Texts of a graph that are looked at, and their length. A graph may hold whole wildcard lists.
_MOST, _LONGEST = 64, 4000


def remember_texts(clip: Any, texts: list[str], concerns: Callable[[Tokens], bool]) -> None:
    """Encodes the texts whose tokens `concerns` accepts, so that conditionings made of them are recognised by their values.

    A text that was encoded in another way, such as by another CLIP, has other values and is not recognised.
    """
    for text in [t for t in dict.fromkeys(texts) if 0 < len(t) <= _LONGEST][:_MOST]:
        tokens = clip.tokenize(text)
        ids = token_ids(tokens)
        if concerns(ids):
            for context, _ in clip.encode_from_tokens_scheduled(tokens):
                encoded_chunks.remember(context[0], ids)
