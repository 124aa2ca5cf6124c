"""When a patch should act: how near a prompt is to the concepts that the patch forgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .concept import Concept, Name, name_tokens
from .errors import ForgetError
from .model import EncodedPrompt, TextModel
from .templates import everyday_captions
from .tokens import CHUNK, strip_special

CURVES: dict[str, Callable[[float], float]] = {
    "step": lambda x: 1.0 if x > 0 else 0.0,
    "linear": lambda x: x,
    "smooth": lambda x: x * x * (3 - 2 * x),
}
# Templates per name whose mean says where a concept is.
_TEMPLATES = 8
# An automatic threshold lies above this share of everyday captions, so that one odd caption does not set it.
_BELOW = 0.99
AUTOMATIC = 0.0


@dataclass
class GateSettings:
    """`threshold` (0..1): similarity up to which the patch stays off; 0: `ConceptGate.threshold`.

    `curve`: how strength grows from there to 1.
    """

    threshold: float = AUTOMATIC
    curve: str = "step"

    def resolved(self, gate: ConceptGate) -> GateSettings:
        """The same with a threshold that is a number to compare with."""
        return replace(self, threshold=gate.threshold) if self.threshold == AUTOMATIC else self

    def strength(self, similarity: float) -> float:
        """gamma in 0..1 of a similarity; exactly 0 up to the threshold. Raises ForgetError on settings out of range."""
        if not 0 <= self.threshold < 1:
            raise ForgetError(
                f"Expected a threshold from 0 to below 1, got {self.threshold}. Choose 0, which finds one."
            )
        if self.curve not in CURVES:
            raise ForgetError(f"Expected a curve of {', '.join(CURVES)}, got {self.curve!r}.")
        share = (similarity - self.threshold) / (1 - self.threshold)
        return CURVES[self.curve](min(1.0, max(0.0, share)))


class ConceptGate:
    """Similarity of prompts to concepts: gamma = max(cosine of embeddings, token overlap).

    A prompt's embedding is the last row of its context, which has seen all of it; the mean of everyday captions is
    taken from it first, because embeddings of any two prompts have most of their direction in common. Source: SPM (Lyu et al., CVPR
    2024), facilitated transport.
    """

    def __init__(self, text: TextModel, concepts: Sequence[Concept]):
        if not concepts:
            raise ForgetError("Expected a patch that says what it forgets, got none. Gate a patch with metadata.")
        names = [(c, name) for c in concepts for name in c.names()]
        self.vocabulary = text.vocabulary
        self.phrases = [{k: set(ids) for k, ids in name_tokens(text, name).items()} for _, name in names]
        captions = text.encode(list(everyday_captions()))
        self.centre = torch.stack([p.context[-1] for p in captions]).mean(0)
        prompts = [self._prompts(text, c, name) for c, name in names]
        self.directions = torch.stack([self._direction(contexts) for contexts in prompts])
        self.threshold = self._between(captions, [context for contexts in prompts for context in contexts])

    def _prompts(self, text: TextModel, concept: Concept, name: Name) -> list[torch.Tensor]:
        chosen = concept.templates[:: max(1, len(concept.templates) // _TEMPLATES)][:_TEMPLATES]
        return [p.context for p in text.encode([t.format(name.text) for t in chosen], [name.word] * len(chosen))]

    def _direction(self, contexts: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = torch.stack([c[-1] for c in contexts]) - self.centre
        return torch.nn.functional.normalize(torch.nn.functional.normalize(rows, dim=1).mean(0), dim=0)

    def _between(self, captions: Sequence[EncodedPrompt], own: Sequence[torch.Tensor]) -> float:
        """A threshold for this text encoder: half way from everyday captions up to the concepts' own prompts.

        Captions that hold most of a concept's tokens are left out. Never above the least similar of the own prompts.
        """
        lowest = min(self.cosine(context) for context in own)
        others = [self.cosine(p.context) for p in captions if self.overlap(p.tokens) <= 0.5]
        highest = float(torch.tensor(others or [0.0]).quantile(_BELOW))
        return min(0.95, max(0.05, min(lowest, (lowest + highest) / 2)))

    def cosine(self, context: torch.Tensor) -> float:
        """The largest cosine of a prompt's context (l, dim) with a concept, over its chunks of 77; -1..1."""
        rows = torch.stack([chunk[-1] for chunk in context.detach().float().cpu().split(CHUNK)]) - self.centre
        return float((torch.nn.functional.normalize(rows, dim=1) @ self.directions.T).max())

    def overlap(self, tokens: dict[str, list[list[int]]]) -> float:
        """The largest share of a concept's tokens that a prompt (ids per encoder and chunk) holds; 0..1."""
        found = 0.0
        for phrase in self.phrases:
            for encoder, ids in phrase.items():
                there = ids & set(strip_special(tokens.get(encoder, []), self.vocabulary))
                found = max(found, len(there) / max(1, len(ids)))
        return found

    def similarity(self, context: torch.Tensor, tokens: dict[str, list[list[int]]] | None = None) -> float:
        """max(cosine, token overlap); the cosine alone where a prompt's tokens are not known."""
        return max(self.cosine(context), self.overlap(tokens) if tokens else 0.0)
