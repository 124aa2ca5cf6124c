"""Schema of a patch's metadata, and readers that drop what does not fit it; see concepts.file_fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from ..concepts.file_fields import (
    MOST_LAYERS,
    Label,
    Line,
    Number,
    Phrase,
    Text,
    Tree,
    Vectors,
    one_of,
    parse_json,
    valid_fields,
    valid_or_default,
)
from ..concepts.limits import MOST_LINES, MOST_NAMES, MOST_PHRASES, MOST_TEMPLATES
from ..concepts.templates import KINDS, check_templates
from ..model.tokens import END_TOKEN_CHOICES
from .patch import ABOUT

LONGEST_PREVIEW = 1_000_000
# Characters of `fmn.concepts`: the vectors of many inverted concepts are longer than any other field.
LONGEST_CONCEPTS = 12_000_000


def _valid_templates(templates: list[str]) -> list[str]:
    # ForgetError is a ValueError, which pydantic reports.
    return check_templates(templates)


class ConceptRecord(BaseModel):
    """One concept, as Concept.as_dict and correct_concept write it; unknown keys are dropped."""

    model_config = ConfigDict(extra="ignore")

    phrases: Annotated[list[Phrase], Field(max_length=MOST_PHRASES)]
    kind: Annotated[str, one_of(KINDS)] = "object"
    templates: Annotated[list[Line], Field(max_length=MOST_TEMPLATES), AfterValidator(_valid_templates)] = []
    end_token: Annotated[str, one_of(END_TOKEN_CHOICES)] = "first"
    vectors: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1
    embedding: Annotated[dict[Literal["l", "h", "g"], Vectors], Field(min_length=1)] | None = None
    corrects: Phrase | None = None
    contexts: Annotated[list[Phrase], Field(max_length=MOST_PHRASES)] = []

    @model_validator(mode="after")
    def _check_contexts(self) -> ConceptRecord:
        if self.corrects and not self.contexts:
            raise ValueError("expected contexts of the word that is corrected")
        return self


class PartRecord(BaseModel):
    """One of several patches side by side, as parts.describe_part writes it; unknown keys are dropped."""

    model_config = ConfigDict(extra="ignore")

    concepts: Annotated[int, Field(ge=1, le=MOST_NAMES, strict=True)]
    ranks: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=1_000_000, strict=True)]], Field(min_length=1, max_length=MOST_LAYERS)
    ]
    settings: Tree = {}
    figures: Tree = {}


_CONCEPTS = TypeAdapter(Annotated[list[ConceptRecord], Field(max_length=MOST_NAMES)])
_PARTS = TypeAdapter(Annotated[list[PartRecord], Field(max_length=MOST_NAMES)])
_TREE = TypeAdapter(Tree)
_TEXT = TypeAdapter(Text)
_SETTINGS = {
    "method": TypeAdapter(Label),
    "target": TypeAdapter(Label),
    "substitute": TypeAdapter(Phrase),
    "preserve_prompts": TypeAdapter(Annotated[list[Line], Field(max_length=MOST_LINES)]),
    "kept_words": TypeAdapter(Annotated[list[Phrase], Field(max_length=MOST_LINES)]),
}
_FIGURES = {
    **dict.fromkeys(
        ("held_out_missed", "held_out_drift", "preserve_drift", "shrink_residual", "ridge", "preserve_weight"),
        TypeAdapter(Number),
    ),
    **dict.fromkeys(
        ("synonyms", "neighbours"), TypeAdapter(Annotated[dict[Phrase, Number], Field(max_length=MOST_LINES)])
    ),
    "kept_names": TypeAdapter(Annotated[list[Phrase], Field(max_length=MOST_LINES)]),
    **dict.fromkeys(("losses", "mass"), TypeAdapter(list[Number])),
    "drift": TypeAdapter(list[Annotated[list[Number], Field(min_length=2, max_length=2)]]),
}


def read_concepts(text: str) -> list[dict[str, Any]]:
    """Reads `fmn.concepts`; empty unless every concept is well-formed, so that reports never miss one."""
    records = valid_or_default(_CONCEPTS, parse_json(text, LONGEST_CONCEPTS), [])
    if sum(max(1, len(record.phrases)) for record in records) > MOST_NAMES:
        return []
    return [record.model_dump(exclude_unset=True) for record in records]


def read_parts(text: str) -> list[dict[str, Any]]:
    """Reads `fmn.parts`; empty unless every part is well-formed."""
    return [record.model_dump(exclude_unset=True) for record in valid_or_default(_PARTS, parse_json(text), [])]


def read_settings(text: str) -> dict[str, Any]:
    """Reads the well-formed settings of `fmn.settings`, including those that this version does not know."""
    return valid_fields(parse_json(text), _SETTINGS, _TREE)


def read_figures(text: str) -> dict[str, Any]:
    """Reads the well-formed figures of `fmn.figures`, including those that this version does not know."""
    return valid_fields(parse_json(text), _FIGURES, _TREE)


def read_about(metadata: Mapping[str, str]) -> dict[str, str]:
    """Reads the texts of a patch's maker, by the names in ABOUT."""
    texts = valid_fields(parse_json(metadata.get("fmn.about", "")), dict.fromkeys(set(ABOUT) - {"preview"}, _TEXT))
    preview = metadata.get(ABOUT["preview"], "")
    return texts | ({"preview": preview} if preview and len(preview) <= LONGEST_PREVIEW else {})
