"""Encoded prompts of a concept, with its columns in each."""

from __future__ import annotations

from dataclasses import dataclass

from ..concepts.concept import Concept, name_tokens
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.tokens import EncodedPrompt, concept_columns


@dataclass
class PromptSet:
    """A concept's encoded prompts, with the concept columns I of each."""

    encoded: list[EncodedPrompt]
    columns: list[list[int]]


def concept_prompts(model: ForgetModel, concept: Concept) -> PromptSet:
    """Encodes every template once with every name; raises ForgetError when a phrase is not found in its prompt."""
    prompts = PromptSet([], [])
    for name in concept.names():
        ids = {encoder: [tokens] for encoder, tokens in name_tokens(model, name).items()}
        texts = [fill_template(t, name.text) for t in concept.templates]
        for prompt in model.encode(texts, [name.word] * len(texts)):
            columns = concept_columns(prompt.tokens, ids, model.vocabulary, concept.end_token)
            if not columns:
                raise ForgetError(
                    f"Phrase {name.text!r} was not found in the prompt {prompt.text!r}. Put spaces around {{}} in the template."
                )
            prompts.encoded.append(prompt)
            prompts.columns.append(columns)
    return prompts
