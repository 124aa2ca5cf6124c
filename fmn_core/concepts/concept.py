"""What is to be forgotten."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..errors import ForgetError
from ..model.protocol import TextModel
from ..model.token_table import widths
from ..model.tokens import END_TOKEN_CHOICES, PLACEHOLDER, LearnedEmbedding, vector_id
from .limits import LONGEST_PHRASE, MOST_NAMES, MOST_PHRASES, MOST_TEMPLATES
from .templates import check_templates, parse_lines, templates_for

MAX_PHRASE_TOKENS = 75
_WIDEST = 4096


class Name(NamedTuple):
    """One way to name a concept in a prompt: words, or PLACEHOLDER with the vectors that stand there."""

    text: str
    word: LearnedEmbedding | None = None


@dataclass
class Concept:
    """Phrases that all mean the concept (first the name, then synonyms), its kind, and the templates they go into.

    `embedding`: inverted vectors that mean it too, or alone where there are no phrases. `images`: references (N, H, W, 3)
    in 0..1; `masks`: (N or 1, H, W) in 0..1, where in them the concept is. `end_token`: which end tokens count as the
    concept's: none, first or all.
    """

    phrases: list[str]
    kind: str = "object"
    templates: list[str] = field(default_factory=list)
    embedding: LearnedEmbedding | None = None
    images: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    end_token: str = "first"

    def names(self) -> list[Name]:
        """Every phrase, then the inverted embedding."""
        names = [Name(phrase) for phrase in self.phrases]
        return [*names, Name(PLACEHOLDER, self.embedding)] if self.embedding is not None else names

    def as_dict(self) -> dict[str, Any]:
        """The concept as a patch's metadata holds it: without what the kind gives by itself, and without images."""
        found: dict[str, Any] = {"phrases": list(self.phrases), "kind": self.kind}
        if self.templates != list(templates_for(self.kind, self.phrases)):
            found["templates"] = list(self.templates)
        if self.end_token != "first":
            found["end_token"] = self.end_token
        if self.embedding is not None:
            found["vectors"] = len(next(iter(self.embedding.values())))
            found["embedding"] = {k: packed_vectors(v) for k, v in sorted(self.embedding.items())}
        return found

    def label(self) -> str:
        """What to call it in reports."""
        return ", ".join(self.phrases) or "an inverted concept"


def packed_vectors(vectors: torch.Tensor) -> dict[str, Any]:
    """Vectors (m, width) as JSON: their shape, and float32 in base64."""
    data = vectors.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    return {"shape": list(vectors.shape), "float32": base64.b64encode(data).decode()}


def unpacked_vectors(saved: Any) -> torch.Tensor | None:
    """What packed_vectors packed; None where it is something else, too large, or not finite."""
    try:
        count, width = (int(n) for n in saved["shape"])
        data = base64.b64decode(saved["float32"], validate=True)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not (1 <= count <= MAX_PHRASE_TOKENS and 1 <= width <= _WIDEST and len(data) == 4 * count * width):
        return None
    vectors = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(count, width).clone()
    return vectors if torch.isfinite(vectors).all() else None


def concept_from_dict(saved: dict[str, Any]) -> Concept | None:
    """The concept that `as_dict` described, or None when that does not say what to encode."""
    kind = saved.get("kind", "object")
    found = {k: unpacked_vectors(v) for k, v in (saved.get("embedding") or {}).items()}
    word = {k: v for k, v in found.items() if v is not None}
    phrases = list(saved.get("phrases", []))
    if len(word) != len(found) or (saved.get("vectors") and not word) or not (phrases or word):
        return None
    end_token = saved.get("end_token")
    templates = saved.get("templates") or list(templates_for(kind, phrases))
    return Concept(
        phrases, kind, templates, word or None, end_token=end_token if end_token in END_TOKEN_CHOICES else "first"
    )


def name_tokens(model: TextModel, name: Name) -> dict[str, list[int]]:
    """Token ids of a name per text encoder; vectors have negative ids."""
    if name.word is None:
        return model.phrase_tokens(name.text)
    return {encoder: [vector_id(v) for v in vectors] for encoder, vectors in name.word.items()}


def concept_from_text(
    phrases: str, kind: str = "object", templates: str = "", end_token: str = "first", **references: Any
) -> Concept:
    """Builds a concept from text boxes: one phrase, and one template with `{}`, per line.

    `references`: embedding, images and masks. Raises ForgetError when there is neither a phrase nor an embedding, on more
    of them than limits.py allows, and on an unknown kind or end-token choice and a template without exactly one `{}`.
    """
    lines = parse_lines(phrases, "phrases", MOST_PHRASES, LONGEST_PHRASE)
    if not lines and references.get("embedding") is None:
        raise ForgetError("Expected a phrase to forget, got an empty text. Type a word or a name, one per line.")
    if end_token not in END_TOKEN_CHOICES:
        raise ForgetError(f"Expected end_token to be one of {', '.join(END_TOKEN_CHOICES)}, got {end_token!r}.")
    own = check_templates(parse_lines(templates, "templates", MOST_TEMPLATES))
    return Concept(lines, kind, own or list(templates_for(kind, lines)), end_token=end_token, **references)


def chain(previous: Sequence[Concept] | None, concepts: Sequence[Concept]) -> tuple[Concept, ...]:
    """Both lists in one; raises ForgetError on more than MOST_NAMES, and on a phrase or an embedding that comes twice, in any case of letters."""
    joined = (*(previous or ()), *concepts)
    count = sum(len(concept.names()) for concept in joined)
    if count > MOST_NAMES:
        raise ForgetError(
            f"Expected at most {MOST_NAMES:,} phrases of all concepts together, got {count:,}. Leave some out."
        )
    seen = set()
    for name in (n for concept in joined for n in concept.names()):
        key = _key(name)
        if key in seen:
            what = f"the phrase {name.text!r}" if name.word is None else "the same embedding"
            raise ForgetError(f"Expected every concept once, got {what} twice. Remove one of them.")
        seen.add(key)
    return joined


def _key(name: Name) -> tuple[Any, ...]:
    """A phrase as the tokenizer of CLIP reads it, where case and the number of spaces do not matter; the ids of vectors."""
    if name.word is None:
        return tuple(name.text.lower().split())
    return tuple((encoder, *(vector_id(v) for v in vectors)) for encoder, vectors in sorted(name.word.items()))


def check_concepts(model: TextModel, concepts: Sequence[Concept]) -> None:
    """Raises ForgetError on a phrase without tokens or of more than 75, and vectors that do not fit the text encoders."""
    for concept in concepts:
        for phrase in concept.phrases:
            _check_phrase(model, phrase)
        if concept.embedding is not None:
            check_word(concept.embedding, widths(model.token_embeddings()))


def _check_phrase(model: TextModel, phrase: str) -> None:
    longest = max(len(ids) for ids in model.phrase_tokens(phrase).values())
    if longest == 0:
        raise ForgetError(f"Expected a phrase of words, got {phrase!r}, which has no tokens. Type a word or a name.")
    if longest > MAX_PHRASE_TOKENS:
        raise ForgetError(
            f"Expected a phrase of at most {MAX_PHRASE_TOKENS} tokens, got {longest}: {phrase[:60]!r}... Shorten it."
        )


def check_word(word: LearnedEmbedding, widths: dict[str, int]) -> None:
    """Raises ForgetError when vectors are not those of these text encoders, given by their embedding widths."""
    got = {k: tuple(v.shape) for k, v in word.items()}
    lengths = {len(v) for v in word.values()}
    if set(word) != set(widths) or any(v.ndim != 2 or v.shape[1] != widths[k] for k, v in word.items()):
        raise ForgetError(
            f"Expected an embedding for the text encoders {widths} (name and width), got {got}. "
            "Choose an embedding made for this family of models."
        )
    if len(lengths) != 1 or not 1 <= max(lengths) <= MAX_PHRASE_TOKENS:
        raise ForgetError(
            f"Expected an embedding of 1 to {MAX_PHRASE_TOKENS} vectors, the same for each encoder, got {got}."
        )
    if not all(torch.isfinite(v.float()).all() for v in word.values()):
        raise ForgetError("Expected finite vectors, got NaN or infinity in the embedding. Invert the concept again.")


def make_concept(model: TextModel, phrases: str, kind: str = "object", templates: str = "", **more: Any) -> Concept:
    """A concept from text boxes, checked against a model; see concept_from_text and check_concepts."""
    concept = concept_from_text(phrases, kind, templates, **more)
    check_concepts(model, [concept])
    return concept
