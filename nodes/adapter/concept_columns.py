"""Finds the columns of a conditioning that belong to a concept."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.model.protocol import TextModel
from ...fmn_core.model.tokens import (
    CHUNK,
    EncodedPrompt,
    Vocabulary,
    concept_columns,
    end_columns,
    find_subsequence,
    strip_special,
)
from .chunk_memory import TOKENS_KEY, Tokens, encoded_chunks
from .text import ComfyText, token_ids

# Batches of another size can change the last bits of an encoding; other words change whole rows.
_TOLERANCE = 1e-3
# A known chunk (77, d) and the strength of its columns (77,).
Chunk = tuple[torch.Tensor, torch.Tensor]


def phrase_ids(model: TextModel, phrases: list[str]) -> dict[str, list[list[int]]]:
    """Token ids of every phrase by text encoder, as fmn_core's concept_columns takes them."""
    ids: dict[str, list[list[int]]] = {}
    for phrase in phrases:
        for encoder, tokens in model.phrase_tokens(phrase).items():
            ids.setdefault(encoder, []).append(tokens)
    return ids


def require_columns(
    model: TextModel,
    prompt: EncodedPrompt,
    phrases: list[str],
    end_token: str,
    advice: str = "Write it into the prompt as it is.",
) -> list[int]:
    """Returns the concept columns of one or several phrases in a prompt.

    Parameters
    ----------
    end_token
        One of END_TOKEN_CHOICES: which end tokens count as concept columns too.
    advice
        Last sentence of the error.

    Raises
    ------
    ForgetError
        The prompt holds none of the phrases.
    """
    columns = concept_columns(prompt.tokens, phrase_ids(model, phrases), model.vocabulary, end_token)
    if not columns:
        quoted = " or ".join(map(repr, phrases))
        raise ForgetError(f"Phrase {quoted} was not found in the prompt {prompt.text!r}. {advice}")
    return columns


class ConceptColumns:
    """Finds the concept columns of any conditioning that reaches the model.

    Parameters
    ----------
    strength
        Strength of a concept column, 0..1; all other columns have 0.

    Notes
    -----
    A conditioning carries embeddings, not tokens. Its chunks of 77 rows are therefore compared with chunks whose tokens
    are known: those from Encode Prompt, and those of prompts given to `learn`. So each prompt of a batch, and each
    negative, joined or repeated conditioning gets its own columns.
    """

    def __init__(self, adapter: ComfyText, phrases: list[str], end_token: str, strength: float):
        self.vocabulary, self.end_token, self.strength = adapter.vocabulary, end_token, strength
        self.phrases = phrase_ids(adapter, phrases)
        self._listed: list[Chunk] = []
        self._recalled: list[Chunk] = []

    def learn(self, clip: Any, prompts: list[str]) -> None:
        """Encodes prompts that other nodes encode, and the empty prompt, and remembers their chunks.

        A CLIP with scheduled hooks gives several encodings of a prompt; all of them are remembered.
        """
        for prompt in ["", *prompts]:
            tokens = clip.tokenize(prompt)
            with torch.inference_mode():
                encodings = clip.encode_from_tokens_scheduled(tokens, show_pbar=False)
            for context, _ in encodings:
                self._listed += self._chunks(context[0], token_ids(tokens))

    def recall(self, conds: list[dict[str, Any]]) -> list[Chunk]:
        """Remembers the chunks of a sampling's conditionings that carry tokens from Encode Prompt.

        Returns
        -------
        The chunks of the sampling before, for `restore`.
        """
        before, self._recalled = self._recalled, []
        for cond in conds:
            if TOKENS_KEY in cond:
                # A node that joins or stacks prompts keeps the tokens of the first; chunk_memory has those of the others.
                self._recalled += [chunk for row in cond["cross_attn"] for chunk in self._encoded_chunks(row)]
                self._recalled += self._chunks(cond["cross_attn"][0], cond[TOKENS_KEY])
        return before

    def restore(self, before: list[Chunk]) -> None:
        """Undoes `recall`, given what it returned."""
        self._recalled = before

    def _encoded_chunks(self, row: torch.Tensor) -> list[Chunk]:
        """Chunks of a context (rows, d) that Encode Prompt encoded, with their columns."""
        chunks = []
        for chunk in row.split(CHUNK):
            encoded = encoded_chunks.recall(chunk)
            if encoded is not None:
                tokens, number = encoded
                start = number * CHUNK
                strengths = self.column_strengths(tokens)[start : start + len(chunk)]
                chunks.append((chunk.detach().float().cpu(), strengths))
        return chunks

    def _chunks(self, context: torch.Tensor, tokens: Tokens) -> list[Chunk]:
        """Pairs a context's chunks with their columns; rows without a token are left out."""
        strengths = self.column_strengths(tokens)
        context = context[: len(strengths)].detach().float().cpu()
        return list(zip(context.split(CHUNK), strengths[: len(context)].split(CHUNK)))

    def column_strengths(self, tokens: Tokens) -> torch.Tensor:
        """Strength (l,) of every column of a prompt with these tokens."""
        strengths = torch.zeros(max(len(chunks) for chunks in tokens.values()) * CHUNK)
        strengths[concept_columns(tokens, self.phrases, self.vocabulary, self.end_token)] = self.strength
        strengths[columns_across_chunks(tokens, self.phrases, self.vocabulary, self.end_token)] = self.strength
        return strengths

    def is_empty(self, context: torch.Tensor) -> bool:
        """Whether every chunk of a context (B, l, d) is that of the empty prompt, or zeros."""
        empty = self._listed[0][0]
        return all(_same(chunk, empty) or not chunk.any() for row in context.cpu() for chunk in row.split(CHUNK))

    def knows_tokens(self, context: torch.Tensor) -> bool:
        """Whether the tokens of every chunk of a context (B, l, d) are known; chunks of zeros count as known."""
        chunks = (chunk for row in context.cpu() for chunk in row.split(CHUNK))
        return all(self._match(chunk) is not None or not chunk.any() for chunk in chunks)

    def find(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the strength of every column of a context (B, l, d), (B, l), and which rows hold a known chunk, (B,)."""
        strengths = torch.zeros(context.shape[:2])
        known = torch.zeros(len(context), dtype=torch.bool)
        # Chunks are compared on the CPU, where the known ones are: one copy of the context instead of one of each known chunk.
        for b, row in enumerate(context.cpu()):
            for start, chunk in zip(range(0, len(row), CHUNK), row.split(CHUNK)):
                match = self._match(chunk)
                if match is not None:
                    strengths[b, start : start + len(chunk)] = match
                    known[b] = True
        return strengths, known

    def _match(self, chunk: torch.Tensor) -> torch.Tensor | None:
        return next((s for known, s in (*self._recalled, *self._listed) if _same(chunk, known)), None)


def columns_across_chunks(
    tokens: Tokens, phrases: dict[str, list[list[int]]], vocabulary: Vocabulary, end_token: str
) -> list[int]:
    """Columns of phrases that begin in one chunk of 77 and end in the next, where the host split a long prompt.

    Parameters and return value are those of fmn_core.model.tokens.concept_columns, which finds phrases within a chunk.
    """
    columns: set[int] = set()
    for encoder, chunks in tokens.items():
        bodies = [strip_special([chunk], vocabulary) for chunk in chunks]
        # Chunk and column of every token between the start and end tokens.
        positions = [(n, n * len(chunks[n]) + 1 + i) for n, body in enumerate(bodies) for i in range(len(body))]
        ids = [i for body in bodies for i in body]
        for phrase in phrases.get(encoder, []):
            for start in find_subsequence(ids, phrase):
                occurrence = positions[start : start + len(phrase)]
                if occurrence[0][0] != occurrence[-1][0]:
                    columns.update(column for _, column in occurrence)
                    for n in {number for number, _ in occurrence}:
                        columns.update(n * len(chunks[n]) + c for c in end_columns(chunks[n], vocabulary, end_token))
    return sorted(columns)


def _same(chunk: torch.Tensor, known: torch.Tensor) -> bool:
    """Whether a chunk that reached the UNet is a known one, cast to the UNet's precision."""
    if chunk.shape != known.shape:
        return False
    known = known.to(chunk.dtype).float()
    return bool((chunk.float() - known).abs().max() <= _TOLERANCE * known.abs().max())
