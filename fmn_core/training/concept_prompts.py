"""Encoded prompts of a concept, with its columns in each."""

from __future__ import annotations

from dataclasses import dataclass

from ..concepts.concept import Concept, Name, name_columns
from ..concepts.templates import fill_template
from ..model.protocol import ForgetModel
from ..model.tokens import EncodedPrompt


@dataclass
class PromptSet:
    """A concept's encoded prompts, with the concept columns I of each."""

    encoded: list[EncodedPrompt]
    columns: list[list[int]]


def concept_prompts(model: ForgetModel, concept: Concept) -> PromptSet:
    """Encodes every template once with every name; raises ForgetError when a phrase is not found in its prompt."""
    prompts = PromptSet([], [])
    for name in concept.names():
        texts = [fill_template(t, name.text) for t in concept.templates]
        for prompt in model.encode(texts, [name.embedding] * len(texts)):
            prompts.encoded.append(prompt)
            prompts.columns.append(_columns(model, prompt, name, concept.end_token))
    return prompts


def _columns(model: ForgetModel, prompt: EncodedPrompt, name: Name, end_token: str) -> list[int]:
    """Concept columns in the rows of all text encoders, one encoder after another."""
    columns, start = list[int](), 0
    for block in prompt.blocks:
        columns += [start + column for column in name_columns(model, block, name, end_token)]
        start += len(block.context)
    return columns
