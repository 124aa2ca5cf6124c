"""Remembers which tokens Encode Prompt encoded, for conditionings that lose their tokens in other nodes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from ...fmn_core.model.tokens import CHUNK

# Key of the tokens in a conditioning's dictionary.
TOKENS_KEY = "fmn_tokens"

# Token ids by text encoder and chunk.
Tokens = dict[str, list[list[int]]]


@dataclass
class ChunkMemory:
    """Looks up the tokens of a chunk, which is 77 rows of a context, by the chunk's values.

    Attributes
    ----------
    limit
        Most chunks to remember; the oldest are dropped.

    Notes
    -----
    Conditioning (Concat) and nodes that stack prompts into a batch join the contexts of several conditionings but keep
    the dictionary, and so the tokens, of only one.
    """

    limit: int = 4096
    _prompts: OrderedDict[bytes, tuple[Tokens, int]] = field(default_factory=OrderedDict)

    def remember(self, context: torch.Tensor, tokens: Tokens) -> None:
        """Stores the tokens of a prompt under every chunk of its context (rows, d)."""
        for number, chunk in enumerate(context.split(CHUNK)):
            self._prompts[_digest(chunk)] = tokens, number
            self._prompts.move_to_end(_digest(chunk))
        while len(self._prompts) > self.limit:
            self._prompts.popitem(last=False)

    def recall(self, chunk: torch.Tensor) -> tuple[Tokens, int] | None:
        """Returns the tokens of the prompt that a chunk (77, d) comes from, and the chunk's number in it; None when unknown."""
        return self._prompts.get(_digest(chunk))


def _digest(chunk: torch.Tensor) -> bytes:
    return hashlib.sha256(chunk.detach().float().cpu().contiguous().numpy().tobytes()).digest()


encoded_chunks = ChunkMemory()
