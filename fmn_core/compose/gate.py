"""When a patch should act: how near a prompt is to the concepts that the patch forgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch

from ..closed_form.targets import ablated
from ..concepts.concept import Concept, Name, check_concepts, name_tokens
from ..concepts.preserve import encode_imagined
from ..concepts.templates import everyday_captions, fill_template
from ..errors import ForgetError
from ..model.protocol import EncodedPrompt, TextModel
from ..model.tokens import CHUNK, strip_special
from ..options import option, options

Curve = Literal["step", "linear", "smooth"]
CURVES: dict[Curve, Callable[[float], float]] = {
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


@options
class GateSettings:
    """From which similarity of prompt and concept on a patch acts, and how its strength grows from there to 1."""

    threshold: float = option(
        default=AUTOMATIC,
        help="Similarity of prompt and concept up to which the patch stays off. 0: half way from prompts without the concept to those "
        "that name it, as this CLIP encodes them; the report says which.",
        minimum=0.0,
        maximum=0.99,
        step=0.01,
    )
    curve: Curve = option(
        default="step", help="From the threshold on: full strength at once, or growing to it, straight or smoothly."
    )

    def resolved(self, gate: ConceptGate) -> GateSettings:
        """The same with a threshold that is a number to compare with."""
        return replace(self, threshold=gate.threshold) if self.threshold == AUTOMATIC else self

    def strength(self, similarity: float) -> float:
        """gamma in 0..1 of a similarity; exactly 0 up to the threshold."""
        share = (similarity - self.threshold) / (1 - self.threshold)
        return CURVES[self.curve](min(1.0, max(0.0, share)))


class Background:
    """How prompts differ that do not name the concepts: everyday captions, imagined words, and the templates without their phrase.

    A prompt's embedding is the last row of its context, which has seen all of it. Any two of them have most of their direction in common, and
    differ most by what every prompt differs in; so the captions' mean is taken from them and what is left is whitened (divided by how
    much these prompts vary in each direction), before embeddings are compared.
    """

    def __init__(self, text: TextModel, concepts: Sequence[Concept]):
        bare = list(dict.fromkeys(ablated(t) for c in concepts for t in _some_templates(c.templates)))
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

    `background`: see there; one for several gates saves its encoding. `on_name` is called after each name of a concept. Raises ForgetError without concepts. Source: SPM (Lyu et al., CVPR
    2024), facilitated transport; whitening as in linear discriminant analysis.
    """

    def __init__(
        self,
        text: TextModel,
        concepts: Sequence[Concept],
        background: Background | None = None,
        on_name: Callable[[], None] = lambda: None,
    ):
        if not concepts:
            raise ForgetError("Expected a patch that says what it forgets, got none. Gate a patch with metadata.")
        check_concepts(text, concepts)
        names = [(c, name) for c in concepts for name in c.names()]
        self.vocabulary = text.vocabulary
        self.phrases = [{k: set(ids) for k, ids in name_tokens(text, name).items()} for _, name in names]
        self.background = background or Background(text, concepts)
        concept_units = []
        for concept, name in names:
            concept_units.append(self.background.units(_last_rows(self._prompts(text, concept, name))))
            on_name()
        self.directions = torch.nn.functional.normalize(torch.stack([units.mean(0) for units in concept_units]), dim=1)
        self.threshold = self._between(torch.cat(concept_units))

    def _prompts(self, text: TextModel, concept: Concept, name: Name) -> list[EncodedPrompt]:
        chosen = _some_templates(concept.templates)
        return text.encode([fill_template(t, name.text) for t in chosen], [name.word] * len(chosen))

    def _between(self, concept_units: torch.Tensor) -> float:
        """A threshold for this text encoder: half way from prompts of the background up to the concepts' own.

        Prompts that hold most of a concept's tokens are left out. Never above the least similar of the own prompts.
        """
        lowest = float(self._nearest(concept_units).min())
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
        largest = 0.0
        for phrase in self.phrases:
            for encoder, ids in phrase.items():
                named = ids & set(strip_special(tokens.get(encoder, []), self.vocabulary))
                largest = max(largest, len(named) / max(1, len(ids)))
        return largest

    def similarity(self, context: torch.Tensor, tokens: dict[str, list[list[int]]] | None = None) -> float:
        """max(cosine, token overlap); the cosine alone where a prompt's tokens are not known."""
        return max(self.cosine(context), self.overlap(tokens) if tokens else 0.0)


def _some_templates(templates: Sequence[str]) -> Sequence[str]:
    """Some of the templates, spread over all of them."""
    return templates[:: max(1, len(templates) // _TEMPLATES)][:_TEMPLATES]


def _last_rows(prompts: Sequence[EncodedPrompt]) -> torch.Tensor:
    return torch.stack([p.context[-1] for p in prompts]).detach().double().cpu()
