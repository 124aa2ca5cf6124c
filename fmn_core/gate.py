"""When a patch should act: how near a prompt is to the concepts that the patch forgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .concept import Concept, Name, check_concepts, name_tokens
from .errors import ForgetError
from .model import EncodedPrompt, TextModel
from .preserve import encode_imagined
from .targets import ablated
from .templates import everyday_captions, fill_template
from .tokens import CHUNK, strip_special

CURVES: dict[str, Callable[[float], float]] = {
    "step": lambda x: 1.0 if x > 0 else 0.0,
    "linear": lambda x: x,
    "smooth": lambda x: x * x * (3 - 2 * x),
}
# Templates per name whose mean says where a concept is.
_TEMPLATES = 16
# An automatic threshold lies above this share of prompts that do not name the concept, so that one odd prompt does not set it.
_BELOW = 0.99
# Share of the mean variance that every direction is given when prompts are whitened: few prompts do not know their rarest ones.
# Chosen on the miniature: 0.03 loses synonyms, 1 loses prompts for styles.
_SHRINKAGE = 0.3
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


class Background:
    """How prompts differ that do not name the concepts: everyday captions, imagined words, and the templates without their phrase.

    A prompt's embedding is the last row of its context, which has seen all of it. Any two of them have most of their direction in common, and
    differ most by what every prompt differs in; so the captions' mean is taken from them and what is left is whitened (divided by how
    much these prompts vary in each direction), before embeddings are compared.
    """

    def __init__(self, text: TextModel, concepts: Sequence[Concept]):
        bare = list(dict.fromkeys(ablated(t) for c in concepts for t in _spread(c.templates)))
        groups = [text.encode(list(everyday_captions())), encode_imagined(text, list(concepts)), text.encode(bare)]
        self.prompts = [prompt for group in groups for prompt in group]
        rows = [_last_rows(group) for group in groups if group]
        self.centre = rows[0].mean(0)
        spread = torch.cat([r - r.mean(0) for r in rows])
        covariance = spread.T @ spread / len(spread)
        shrinkage = _SHRINKAGE * covariance.trace() / len(covariance)
        self._root = torch.linalg.cholesky(covariance + shrinkage * torch.eye(len(covariance)).to(covariance))

    def units(self, rows: torch.Tensor) -> torch.Tensor:
        """Whitened embeddings (n, dim) of length 1."""
        whitened = torch.linalg.solve_triangular(self._root, (rows.to(self.centre) - self.centre).T, upper=False).T
        return torch.nn.functional.normalize(whitened, dim=1)


class ConceptGate:
    """Similarity of prompts to concepts: gamma = max(cosine of whitened embeddings, token overlap).

    `background`: see there; one for several gates saves its encoding. Raises ForgetError without concepts. Source: SPM (Lyu et al., CVPR
    2024), facilitated transport; whitening as in linear discriminant analysis.
    """

    def __init__(self, text: TextModel, concepts: Sequence[Concept], background: Background | None = None):
        if not concepts:
            raise ForgetError("Expected a patch that says what it forgets, got none. Gate a patch with metadata.")
        check_concepts(text, concepts)
        names = [(c, name) for c in concepts for name in c.names()]
        self.vocabulary = text.vocabulary
        self.phrases = [{k: set(ids) for k, ids in name_tokens(text, name).items()} for _, name in names]
        self.background = background or Background(text, concepts)
        own = [self.background.units(_last_rows(self._prompts(text, c, name))) for c, name in names]
        self.directions = torch.nn.functional.normalize(torch.stack([units.mean(0) for units in own]), dim=1)
        self.threshold = self._between(torch.cat(own))

    def _prompts(self, text: TextModel, concept: Concept, name: Name) -> list[EncodedPrompt]:
        chosen = _spread(concept.templates)
        return text.encode([fill_template(t, name.text) for t in chosen], [name.word] * len(chosen))

    def _between(self, own: torch.Tensor) -> float:
        """A threshold for this text encoder: half way from prompts of the background up to the concepts' own.

        Prompts that hold most of a concept's tokens are left out. Never above the least similar of the own prompts.
        """
        lowest = float(self._nearest(own).min())
        prompts = [p for p in self.background.prompts if self.overlap(p.tokens) <= 0.5]
        others = self._nearest(self.background.units(_last_rows(prompts))) if prompts else torch.zeros(1)
        highest = float(others.double().quantile(_BELOW))
        return min(0.95, max(0.05, min(lowest, (lowest + highest) / 2)))

    def _nearest(self, units: torch.Tensor) -> torch.Tensor:
        return (units @ self.directions.T).amax(1)

    def cosine(self, context: torch.Tensor) -> float:
        """The largest cosine of a prompt's context (l, dim) with a concept, over its chunks of 77; -1..1."""
        rows = torch.stack([chunk[-1] for chunk in context.detach().cpu().split(CHUNK)])
        return float(self._nearest(self.background.units(rows)).max())

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


def _spread(templates: Sequence[str]) -> Sequence[str]:
    """Some of the templates, spread over all of them."""
    return templates[:: max(1, len(templates) // _TEMPLATES)][:_TEMPLATES]


def _last_rows(prompts: Sequence[EncodedPrompt]) -> torch.Tensor:
    return torch.stack([p.context[-1] for p in prompts]).detach().double().cpu()
