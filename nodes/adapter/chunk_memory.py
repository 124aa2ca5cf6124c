"""What Encode Prompt encoded since the server started, for conditionings that lost their tokens on the way."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from ...fmn_core.model.tokens import CHUNK

TOKENS_KEY = "fmn_tokens"

Tokens = dict[str, list[list[int]]]


@dataclass
class ChunkMemory:
    """The tokens behind chunks of 77 rows of a conditioning, found by the chunk's values.

    Conditioning (Concat) and nodes that stack prompts into a batch join the values of several conditionings but keep the
    dictionary of one. The oldest chunks are forgotten beyond `limit`.
    """

    limit: int = 4096
    _prompts: OrderedDict[bytes, tuple[Tokens, int]] = field(default_factory=OrderedDict)

    def remember(self, context: torch.Tensor, tokens: Tokens) -> None:
        """Stores every chunk of a context (rows, dim) of the prompt with these tokens."""
        for number, chunk in enumerate(context.split(CHUNK)):
            self._prompts[_digest(chunk)] = tokens, number
            self._prompts.move_to_end(_digest(chunk))
        while len(self._prompts) > self.limit:
            self._prompts.popitem(last=False)

    def recall(self, chunk: torch.Tensor) -> tuple[Tokens, int] | None:
        """The tokens of the prompt that the chunk (77, dim) is from, and its number in it; None when it is not known."""
        return self._prompts.get(_digest(chunk))


def _digest(chunk: torch.Tensor) -> bytes:
    return hashlib.sha256(chunk.detach().float().cpu().contiguous().numpy().tobytes()).digest()


encoded_chunks = ChunkMemory()
