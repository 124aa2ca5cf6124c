"""Finds the columns of a transformer's conditioning that belong to a concept."""

from __future__ import annotations

import torch

from ...fmn_core.model.tokens import concept_columns
from .chunk_memory import Tokens
from .concept_columns import ConceptColumns
from .transformer import ComfyTransformer


class TransformerColumns(ConceptColumns):
    """ConceptColumns of a transformer whose conditionings hold every row of its encoders, one encoder after another."""

    def __init__(self, adapter: ComfyTransformer, phrases: list[str], end_token: str, strength: float):
        self.text = adapter
        super().__init__(adapter, phrases, end_token, strength)

    def column_strengths(self, tokens: Tokens) -> torch.Tensor:
        """Strength (l,) of every column of a prompt with these tokens."""
        parts = []
        for ids in self.text.tokens_of_rows(tokens):
            strengths = torch.zeros(sum(len(chunk) for chunk in next(iter(ids.values()))))
            strengths[concept_columns(ids, self.phrases, self.vocabulary, self.end_token)] = self.strength
            parts.append(strengths)
        return torch.cat(parts)
