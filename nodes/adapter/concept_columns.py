"""Which columns of a conditioning belong to a concept, found by the conditioning's values."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.model.tokens import CHUNK, Vocabulary, concept_columns, end_columns, find_subsequence, strip_special
from .chunk_memory import TOKENS_KEY, Tokens, encoded_chunks
from .model import ComfyModel
from .text import token_ids

# Batches of another size can change the last bits of an encoding; other words change whole rows.
_TOLERANCE = 1e-3
Chunk = tuple[torch.Tensor, torch.Tensor]


class ConceptColumns:
    """Finds the phrases' columns in whatever conditioning arrives.

    A conditioning carries embeddings, not tokens. Its chunks of 77 rows are therefore compared with chunks whose tokens
    are known: those of conditionings that Encode Prompt made, and those of prompts that were listed. So every prompt
    of a batch, negative prompts, joined and repeated conditionings each get their own columns.
    """

    def __init__(self, adapter: ComfyModel, phrases: list[str], end_token: str, strength: float):
        self.vocabulary, self.end_token, self.strength = adapter.vocabulary, end_token, strength
        self.phrases: dict[str, list[list[int]]] = {}
        for phrase in phrases:
            for encoder, ids in adapter.phrase_tokens(phrase).items():
                self.phrases.setdefault(encoder, []).append(ids)
        self._listed: list[Chunk] = []  # a known chunk (77, dim) and the strength of its columns (77,)
        self._recalled: list[Chunk] = []

    def learn(self, clip: Any, prompts: list[str]) -> None:
        """Remembers prompts that other nodes encode; the empty prompt is always known.

        A CLIP with scheduled hooks gives several encodings of a prompt, all of them are learnt.
        """
        for prompt in ["", *prompts]:
            tokens = clip.tokenize(prompt)
            with torch.inference_mode():
                encodings = clip.encode_from_tokens_scheduled(tokens, show_pbar=False)
            for context, _ in encodings:
                self._listed += self._chunks(context[0], token_ids(tokens))

    def recall(self, conds: list[dict[str, Any]]) -> list[Chunk]:
        """Learns the conditionings of a sampling by the tokens that Encode Prompt left; returns what it replaces."""
        before, self._recalled = self._recalled, []
        for cond in conds:
            if TOKENS_KEY in cond:
                # A node that joins or stacks prompts keeps the tokens of the first; the others are remembered.
                self._recalled += [known for row in cond["cross_attn"] for known in self._remembered(row)]
                self._recalled += self._chunks(cond["cross_attn"][0], cond[TOKENS_KEY])
        return before

    def restore(self, before: list[Chunk]) -> None:
        """Goes back to what was known before `recall`."""
        self._recalled = before

    def _remembered(self, row: torch.Tensor) -> list[Chunk]:
        found = []
        for chunk in row.split(CHUNK):
            prompt = encoded_chunks.recall(chunk)
            if prompt is not None:
                start = prompt[1] * CHUNK
                found.append((chunk.detach().float().cpu(), self.of_tokens(prompt[0])[start : start + len(chunk)]))
        return found

    def _chunks(self, context: torch.Tensor, tokens: Tokens) -> list[Chunk]:
        """Pairs a context's chunks with their columns; rows that no token stands for are left out."""
        weight = self.of_tokens(tokens)
        context = context[: len(weight)].detach().float().cpu()
        return list(zip(context.split(CHUNK), weight[: len(context)].split(CHUNK)))

    def of_tokens(self, tokens: Tokens) -> torch.Tensor:
        """Strength of every column of a prompt's tokens: (l,)."""
        weight = torch.zeros(max(len(chunks) for chunks in tokens.values()) * CHUNK)
        weight[concept_columns(tokens, self.phrases, self.vocabulary, self.end_token)] = self.strength
        weight[columns_across_chunks(tokens, self.phrases, self.vocabulary, self.end_token)] = self.strength
        return weight

    def wordless(self, context: torch.Tensor) -> bool:
        """Whether a context (B, l, dim) is that of empty prompts, or zeros."""
        empty = self._listed[0][0]
        return all(_same(chunk, empty) or not chunk.any() for row in context.cpu() for chunk in row.split(CHUNK))

    def knows(self, context: torch.Tensor) -> bool:
        """Whether the tokens of every chunk of a context (B, l, dim) are known."""
        chunks = (chunk for row in context.cpu() for chunk in row.split(CHUNK))
        return all(self._match(chunk) is not None or not chunk.any() for chunk in chunks)

    def find(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Strength of every column of a context (B, l, dim): (B, l), and which rows hold a known chunk: (B,)."""
        weight = torch.zeros(context.shape[:2])
        known = torch.zeros(len(context), dtype=torch.bool)
        # Compared on the CPU, where the known ones are: one copy of what arrives instead of one of each known chunk.
        for b, row in enumerate(context.cpu()):
            for start, chunk in zip(range(0, len(row), CHUNK), row.split(CHUNK)):
                match = self._match(chunk)
                if match is not None:
                    weight[b, start : start + len(chunk)] = match
                    known[b] = True
        return weight, known

    def _match(self, chunk: torch.Tensor) -> torch.Tensor | None:
        return next((w for c, w in (*self._recalled, *self._listed) if _same(chunk, c)), None)


def columns_across_chunks(
    tokens: Tokens, phrases: dict[str, list[list[int]]], vocabulary: Vocabulary, end_token: str
) -> list[int]:
    """Columns of phrases that begin in one chunk of 77 and end in the next, where the host broke a long prompt.

    Arguments as in fmn_core.tokens.concept_columns, which finds the phrases that are in one chunk.
    """
    columns: set[int] = set()
    for encoder, chunks in tokens.items():
        bodies = [strip_special([chunk], vocabulary) for chunk in chunks]
        places = [(n, n * len(chunks[n]) + 1 + i) for n, body in enumerate(bodies) for i in range(len(body))]
        ids = [i for body in bodies for i in body]
        for phrase in phrases.get(encoder, []):
            for start in find_subsequence(ids, phrase):
                found = places[start : start + len(phrase)]
                if found[0][0] != found[-1][0]:
                    columns.update(column for _, column in found)
                    for n in {number for number, _ in found}:
                        columns.update(n * len(chunks[n]) + c for c in end_columns(chunks[n], vocabulary, end_token))
    return sorted(columns)


def _same(chunk: torch.Tensor, known: torch.Tensor) -> bool:
    """Whether a chunk that reached the UNet is a known one, cast to the UNet's precision."""
    if chunk.shape != known.shape:
        return False
    known = known.to(chunk.dtype).float()
    return bool((chunk.float() - known).abs().max() <= _TOLERANCE * known.abs().max())
