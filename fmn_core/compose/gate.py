"""The gate of a patch: the similarity of a prompt to the concepts that the patch forgets, and the strength for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch

from ..closed_form.targets import ablated
from ..concepts.concept import Concept, Name, check_concepts, name_tokens
from ..concepts.preserve import encode_imagined
from ..concepts.templates import everyday_captions, fill_template, spread_templates
from ..errors import ForgetError
from ..model.protocol import EncodedPrompt, TextModel
from ..model.tokens import CHUNK, find_subsequence, strip_special
from ..options import option, options

Curve = Literal["step", "linear", "smooth"]
CURVES: dict[Curve, Callable[[float], float]] = {
    "step": lambda x: 1.0 if x > 0 else 0.0,
    "linear": lambda x: x,
    "smooth": lambda x: x * x * (3 - 2 * x),
}
# Templates per name; the mean of their embeddings is the direction of the concept.
_TEMPLATES = 16
# Quantile of the background's similarities that an automatic threshold refers to; the maximum would depend on a single prompt.
_QUANTILE = 0.99
# Share of the mean variance that is added to every direction before whitening: few prompts estimate the rarest directions badly.
# Chosen on the miniature: with 0.03 the gate misses synonyms, with 1 prompts for styles.
_SHRINKAGE = 0.3
AUTOMATIC = 0.0
# Stands where a kept name was, so that the words around it do not become a phrase.
_GAP = -(2**62)


@options
class GateSettings:
    """The threshold of similarity above which a patch acts, and the curve of its strength from there to 1."""

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
        """The settings with the gate's own threshold in place of AUTOMATIC."""
        return replace(self, threshold=gate.threshold) if self.threshold == AUTOMATIC else self

    def strength(self, similarity: float) -> float:
        """The strength, 0..1, for a prompt's similarity; exactly 0 up to the threshold."""
        excess = (similarity - self.threshold) / (1 - self.threshold)
        return CURVES[self.curve](min(1.0, max(0.0, excess)))


class BackgroundPrompts:
    """Prompts that do not name the concepts, and the whitening of prompt embeddings that is estimated on them.

    The prompts are everyday captions, imagined words, and the concepts' templates without their phrase.

    Notes
    -----
    A prompt's embedding is the last row of its context, which attends to all tokens, or the mean row of a text encoder whose rows all do
    (T5). Embeddings of any two prompts are nearly
    parallel, and differ most in directions that say nothing of a concept. Therefore the captions' mean is subtracted, and the difference
    is whitened by the covariance of the background prompts, before cosines are taken.
    """

    def __init__(self, text: TextModel, concepts: Sequence[Concept]):
        bare = list(dict.fromkeys(ablated(t) for c in concepts for t in _gate_templates(c)))
        groups = [text.encode(list(everyday_captions())), encode_imagined(text, list(concepts)), text.encode(bare)]
        self.prompts = [prompt for group in groups for prompt in group]
        self.reading = _Reading(text)
        rows = [self.reading.of_prompts(group) for group in groups if group]
        self.centre = rows[0].mean(0)
        centred = torch.cat([r - r.mean(0) for r in rows])
        covariance = centred.T @ centred / len(centred)
        shrinkage = _SHRINKAGE * covariance.trace() / len(covariance)
        self._root = torch.linalg.cholesky(covariance + shrinkage * torch.eye(len(covariance)).to(covariance))

    def units(self, rows: torch.Tensor) -> torch.Tensor:
        """Whitens embeddings (n, d) and scales them to length 1."""
        whitened = torch.linalg.solve_triangular(self._root, (rows.to(self.centre) - self.centre).T, upper=False).T
        return torch.nn.functional.normalize(whitened, dim=1)


class ConceptGate:
    """The similarity of prompts to concepts: the larger of cosine and token overlap.

    Parameters
    ----------
    text
        The text encoders.
    concepts
        The concepts that the gated patch forgets.
    background
        Background prompts of these and perhaps further concepts, which several gates can share; made here if not given.
    on_name
        Called after each name of a concept is encoded, for progress bars.
    kept_names
        Longer names that contain a phrase and are no concept, such as "zebra crossing"; see preserve.longer_names.

    Raises
    ------
    ForgetError
        Without concepts, and on concepts that do not fit the text encoders.

    Notes
    -----
    Source: the facilitated transport of SPM (Lyu et al., CVPR 2024), with the whitening of linear discriminant analysis.
    """

    def __init__(
        self,
        text: TextModel,
        concepts: Sequence[Concept],
        background: BackgroundPrompts | None = None,
        on_name: Callable[[], None] = lambda: None,
        kept_names: Sequence[str] = (),
    ):
        if not concepts:
            raise ForgetError("Expected a patch that says what it forgets, got none. Gate a patch with metadata.")
        check_concepts(text, concepts)
        names = [(c, name) for c in concepts for name in c.names()]
        self.vocabulary = text.vocabulary
        self._phrase_ids = [name_tokens(text, name) for _, name in names]
        self._kept_ids = [text.phrase_tokens(name) for name in kept_names]
        self.phrases = [{k: set(ids) for k, ids in name_tokens(text, name).items()} for _, name in names]
        self.background = background or BackgroundPrompts(text, concepts)
        concept_units = []
        for concept, name in names:
            concept_units.append(self.units_of(self._prompts(text, concept, name)))
            on_name()
        self.directions = torch.nn.functional.normalize(torch.stack([units.mean(0) for units in concept_units]), dim=1)
        self.threshold = self._automatic_threshold(torch.cat(concept_units))

    def _prompts(self, text: TextModel, concept: Concept, name: Name) -> list[EncodedPrompt]:
        templates = _gate_templates(concept)
        return text.encode([fill_template(t, name.text) for t in templates], [name.embedding] * len(templates))

    def _automatic_threshold(self, concept_units: torch.Tensor) -> float:
        """Half way from the background's similarities up to the lowest of the concepts' prompts, and never above that.

        Background prompts with more than half of a concept's tokens are left out.
        """
        lowest = float(self._largest_cosines(concept_units).min())
        prompts = [p for p in self.background.prompts if self.overlap(p.tokens) <= 0.5]
        cosines = self._largest_cosines(self.units_of(prompts)) if prompts else torch.zeros(1)
        highest = float(cosines.double().quantile(_QUANTILE))
        return min(0.95, max(0.05, min(lowest, (lowest + highest) / 2)))

    def _largest_cosines(self, units: torch.Tensor) -> torch.Tensor:
        return (units @ self.directions.T).amax(1)

    def units_of(self, prompts: Sequence[EncodedPrompt]) -> torch.Tensor:
        """Whitened embeddings of prompts, of length 1."""
        return self.background.units(self.background.reading.of_prompts(prompts))

    def cosine(self, context: torch.Tensor) -> float:
        """The largest cosine, -1..1, of a chunk of a prompt's context (l, d) with the direction of a name."""
        rows = self.background.reading.of_context(context)
        return float(self._largest_cosines(self.background.units(rows)).max())

    def overlap(self, tokens: dict[str, list[list[int]]]) -> float:
        """The largest share, 0..1, of a name's tokens that a prompt contains; `tokens`: ids per text encoder and chunk."""
        largest = 0.0
        for phrase in self.phrases:
            for encoder, ids in phrase.items():
                shared = ids & set(strip_special(tokens.get(encoder, []), self.vocabulary))
                largest = max(largest, len(shared) / max(1, len(ids)))
        return largest

    def _only_in_kept_names(self, tokens: dict[str, list[list[int]]]) -> bool:
        """Whether a prompt holds phrases, all of them inside of kept names."""
        encoder, chunks = next(iter(tokens.items()))
        ids = strip_special(chunks, self.vocabulary)
        rest = ids
        for name in self._kept_ids:
            rest = _without(rest, name[encoder])
        held, left = ([p for p in self._phrase_ids if find_subsequence(i, p[encoder])] for i in (ids, rest))
        return bool(held) and not left

    def similarity(self, context: torch.Tensor, tokens: dict[str, list[list[int]]] | None = None) -> float:
        """The larger of cosine and token overlap, or the cosine alone where the prompt's tokens are unknown.

        It is 0 where phrases stand in kept names only.
        """
        if tokens and self._kept_ids and self._only_in_kept_names(tokens):
            return 0.0
        return max(self.cosine(context), self.overlap(tokens) if tokens else 0.0)


def _without(ids: list[int], part: list[int]) -> list[int]:
    """Token ids without the occurrences of a part, each of which leaves a token that is none."""
    rest, end = list[int](), 0
    for start in find_subsequence(ids, part):
        rest, end = [*rest, *ids[end:start], _GAP], start + len(part)
    return [*rest, *ids[end:]]


def _gate_templates(concept: Concept) -> list[str]:
    return spread_templates(concept.templates, _TEMPLATES)[:_TEMPLATES]


class _Reading:
    """What of a prompt's rows stands for the whole: the last one where it has seen all tokens, else their mean.

    Of several text encoders it is the first one's rows.
    """

    def __init__(self, text: TextModel):
        empty = text.encode([""])[0]
        self._causal, self._joined = empty.causal, bool(empty.further)
        self._length = len(empty.context)

    def of_prompts(self, prompts: Sequence[EncodedPrompt]) -> torch.Tensor:
        """One row (n, d) for each prompt, in float64."""
        return torch.stack([self._one(prompt.context) for prompt in prompts]).detach().double().cpu()

    def of_context(self, context: torch.Tensor) -> torch.Tensor:
        """One row for each chunk of a conditioning's context (l, d)."""
        context = context.detach().cpu()
        if self._joined:
            context = context[: self._length]
        chunks = context.split(CHUNK) if self._causal and self._length == CHUNK else (context,)
        return torch.stack([self._one(chunk) for chunk in chunks])

    def _one(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[-1] if self._causal else rows.mean(0)
