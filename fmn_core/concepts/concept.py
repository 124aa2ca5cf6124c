"""The concept to forget: its phrases, kind, templates, learned embedding and reference images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..errors import ForgetError
from ..model.protocol import TextModel
from ..model.token_table import widths
from ..model.tokens import (
    END_TOKEN_CHOICES,
    PLACEHOLDER,
    EncodedPrompt,
    LearnedEmbedding,
    concept_columns,
    vector_id,
)
from .limits import LONGEST_PHRASE, MOST_NAMES, MOST_PHRASES, MOST_TEMPLATES
from .templates import check_templates, parse_lines, templates_for

MAX_PHRASE_TOKENS = 75
_MAX_WIDTH = 4096


class Name(NamedTuple):
    """One way to name a concept in a prompt: a phrase, or PLACEHOLDER and the learned embedding that replaces it."""

    text: str
    embedding: LearnedEmbedding | None = None

    def key(self) -> tuple[Any, ...]:
        """A hashable key that is equal for names with the same tokens.

        CLIP's tokenizer ignores case and the number of spaces, so a phrase's key does too.
        """
        if self.embedding is None:
            return tuple(self.text.lower().split())
        return tuple((encoder, *(vector_id(v) for v in vectors)) for encoder, vectors in sorted(self.embedding.items()))


@dataclass
class Concept:
    """A concept to forget, with everything that says how prompts name it and what it looks like.

    Attributes
    ----------
    phrases
        The name, then its synonyms. Empty where only the embedding names the concept.
    kind
        One of templates.KINDS.
    templates
        Prompts with one `{}` for the phrase.
    embedding
        Learned embedding that means the concept too.
    images
        Reference images (N, H, W, 3), 0..1.
    masks
        Where the images show the concept: (N, H, W), or (1, H, W) for all of them, 0..1.
    end_token
        Which end tokens count as concept columns, one of END_TOKEN_CHOICES.
    """

    phrases: list[str]
    kind: str = "object"
    templates: list[str] = field(default_factory=list)
    embedding: LearnedEmbedding | None = None
    images: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    end_token: str = "first"

    def names(self) -> list[Name]:
        """Every phrase, then the learned embedding."""
        names = [Name(phrase) for phrase in self.phrases]
        return [*names, Name(PLACEHOLDER, self.embedding)] if self.embedding is not None else names

    def key(self) -> tuple[Any, ...]:
        """A hashable key that is equal for concepts with the same names in the same order."""
        return tuple(name.key() for name in self.names())

    def as_dict(self) -> dict[str, Any]:
        """The concept as JSON for a patch's metadata; see concept_from_dict.

        Templates and the end-token choice are left out where they are the default. Images are never stored.
        """
        record: dict[str, Any] = {"phrases": list(self.phrases), "kind": self.kind}
        if self.templates != list(templates_for(self.kind, self.phrases)):
            record["templates"] = list(self.templates)
        if self.end_token != "first":
            record["end_token"] = self.end_token
        if self.embedding is not None:
            record["vectors"] = len(next(iter(self.embedding.values())))
            record["embedding"] = {k: packed_vectors(v) for k, v in sorted(self.embedding.items())}
        return record

    def label(self) -> str:
        """The concept's name in reports: its phrases."""
        return ", ".join(self.phrases) or "an inverted concept"


def packed_vectors(vectors: torch.Tensor) -> dict[str, Any]:
    """Encodes vectors (m, width) as JSON: their shape, and float32 in base64."""
    data = vectors.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    return {"shape": list(vectors.shape), "float32": base64.b64encode(data).decode()}


def unpacked_vectors(record: Any) -> torch.Tensor | None:
    """Decodes the JSON of packed_vectors; returns None where it is malformed, too large or not finite."""
    try:
        count, width = (int(n) for n in record["shape"])
        data = base64.b64decode(record["float32"], validate=True)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not (1 <= count <= MAX_PHRASE_TOKENS and 1 <= width <= _MAX_WIDTH and len(data) == 4 * count * width):
        return None
    vectors = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(count, width).clone()
    return vectors if torch.isfinite(vectors).all() else None


def concept_from_dict(record: dict[str, Any]) -> Concept | None:
    """Reads a concept from the JSON of Concept.as_dict.

    Returns
    -------
    The concept, or None where the record holds neither phrases nor a whole embedding, so that no prompt can name it.
    """
    kind = record.get("kind", "object")
    unpacked = {encoder: unpacked_vectors(v) for encoder, v in (record.get("embedding") or {}).items()}
    embedding = {encoder: v for encoder, v in unpacked.items() if v is not None}
    phrases = list(record.get("phrases", []))
    if len(embedding) != len(unpacked) or (record.get("vectors") and not embedding) or not (phrases or embedding):
        return None
    end_token = record.get("end_token")
    templates = record.get("templates") or list(templates_for(kind, phrases))
    return Concept(
        phrases, kind, templates, embedding or None, end_token=end_token if end_token in END_TOKEN_CHOICES else "first"
    )


def name_tokens(model: TextModel, name: Name) -> dict[str, list[int]]:
    """Token ids of a name per text encoder; learned vectors have negative ids."""
    if name.embedding is None:
        return model.phrase_tokens(name.text)
    return {encoder: [vector_id(v) for v in vectors] for encoder, vectors in name.embedding.items()}


def name_columns(model: TextModel, prompt: EncodedPrompt, name: Name, end_token: str = "none") -> list[int]:
    """Concept columns of a name in an encoded prompt; raises ForgetError where the prompt does not contain the name."""
    if name.embedding is None:
        spellings = model.phrase_spellings(name.text)
    else:
        spellings = {encoder: [ids] for encoder, ids in name_tokens(model, name).items()}
    columns = concept_columns(prompt.tokens, spellings, model.vocabulary, end_token)
    if not columns:
        raise ForgetError(
            f"Phrase {name.text!r} was not found in the prompt {prompt.text!r}. Put spaces around {{}} in the template."
        )
    return columns


def concept_from_text(
    phrases: str,
    kind: str = "object",
    templates: str = "",
    end_token: str = "first",
    *,
    embedding: LearnedEmbedding | None = None,
    images: torch.Tensor | None = None,
    masks: torch.Tensor | None = None,
) -> Concept:
    """Builds a concept from the text of two text boxes.

    Parameters
    ----------
    phrases
        One phrase per line: the name, then its synonyms.
    kind, end_token, embedding, images, masks
        See Concept.
    templates
        One template with `{}` per line; where there is none, the kind's default templates are taken.

    Raises
    ------
    ForgetError
        On neither a phrase nor an embedding, more or longer lines than limits.py allows, an unknown kind or end-token choice, and a
        template without exactly one `{}`.
    """
    lines = parse_lines(phrases, "phrases", MOST_PHRASES, LONGEST_PHRASE)
    if not lines and embedding is None:
        raise ForgetError("Expected a phrase to forget, got an empty text. Type a word or a name, one per line.")
    if end_token not in END_TOKEN_CHOICES:
        raise ForgetError(f"Expected end_token to be one of {', '.join(END_TOKEN_CHOICES)}, got {end_token!r}.")
    typed_templates = check_templates(parse_lines(templates, "templates", MOST_TEMPLATES))
    return Concept(
        lines, kind, typed_templates or list(templates_for(kind, lines)), embedding, images, masks, end_token
    )


def chain(previous: Sequence[Concept] | None, concepts: Sequence[Concept]) -> tuple[Concept, ...]:
    """Joins two lists of concepts.

    Raises
    ------
    ForgetError
        On more than MOST_NAMES names, and on a phrase or an embedding that comes twice; see Name.key.
    """
    joined = (*(previous or ()), *concepts)
    count = sum(len(concept.names()) for concept in joined)
    if count > MOST_NAMES:
        raise ForgetError(
            f"Expected at most {MOST_NAMES:,} phrases of all concepts together, got {count:,}. Leave some out."
        )
    keys = set()
    for name in (n for concept in joined for n in concept.names()):
        if name.key() in keys:
            duplicate = f"the phrase {name.text!r}" if name.embedding is None else "the same embedding"
            raise ForgetError(f"Expected every concept once, got {duplicate} twice. Remove one of them.")
        keys.add(name.key())
    return joined


def check_concepts(model: TextModel, concepts: Sequence[Concept]) -> None:
    """Checks concepts against a model's tokenizer and text encoders.

    Raises
    ------
    ForgetError
        On a phrase without tokens or of more than MAX_PHRASE_TOKENS, and on an embedding for other text encoders.
    """
    for concept in concepts:
        for phrase in concept.phrases:
            _check_phrase(model, phrase)
        if concept.embedding is not None:
            check_embedding(concept.embedding, widths(model.token_embeddings()))


def _check_phrase(model: TextModel, phrase: str) -> None:
    longest = max(len(ids) for ids in model.phrase_tokens(phrase).values())
    if longest == 0:
        raise ForgetError(f"Expected a phrase of words, got {phrase!r}, which has no tokens. Type a word or a name.")
    if longest > MAX_PHRASE_TOKENS:
        raise ForgetError(
            f"Expected a phrase of at most {MAX_PHRASE_TOKENS} tokens, got {longest}: {phrase[:60]!r}... Shorten it."
        )


def check_embedding(embedding: LearnedEmbedding, widths: dict[str, int]) -> None:
    """Checks a learned embedding against the embedding width of each text encoder.

    Raises
    ------
    ForgetError
        On other encoders or widths, more than MAX_PHRASE_TOKENS vectors or a different number for each encoder, and NaN or infinity.
    """
    shapes = {k: tuple(v.shape) for k, v in embedding.items()}
    lengths = {len(v) for v in embedding.values()}
    if set(embedding) != set(widths) or any(v.ndim != 2 or v.shape[1] != widths[k] for k, v in embedding.items()):
        raise ForgetError(
            f"Expected an embedding for the text encoders {widths} (name and width), got {shapes}. "
            "Choose an embedding made for this family of models."
        )
    if len(lengths) != 1 or not 1 <= max(lengths) <= MAX_PHRASE_TOKENS:
        raise ForgetError(
            f"Expected an embedding of 1 to {MAX_PHRASE_TOKENS} vectors, the same for each encoder, got {shapes}."
        )
    if not all(torch.isfinite(v.float()).all() for v in embedding.values()):
        raise ForgetError("Expected finite vectors, got NaN or infinity in the embedding. Invert the concept again.")


def make_concept(
    model: TextModel,
    phrases: str,
    kind: str = "object",
    templates: str = "",
    end_token: str = "first",
    *,
    embedding: LearnedEmbedding | None = None,
    images: torch.Tensor | None = None,
    masks: torch.Tensor | None = None,
) -> Concept:
    """Builds a concept from text and checks it against a model; see concept_from_text and check_concepts."""
    concept = concept_from_text(phrases, kind, templates, end_token, embedding=embedding, images=images, masks=masks)
    check_concepts(model, [concept])
    return concept
