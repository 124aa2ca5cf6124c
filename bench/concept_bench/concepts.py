"""Concepts of ConceptBench in three groups, from the JSON lists in this folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROUPS = ("identity", "object", "style")
MINIATURE, STABLE_DIFFUSION = LISTS = ("miniature", "stable_diffusion")
# A model with the concepts of the miniature.
MINIATURE_FLUX = "miniature_flux"
_TEXTS = ("prompts", "contexts", "paraphrases", "subjects", "synonyms", "neighbours")
_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class BenchConcept:
    """A concept of a list.

    Parameters
    ----------
    prompts
        Prompts with {x} for the concept, or a style's subject, and {s} for the style.
    contexts
        Prompts in other forms, with {x} and, in some of them, {s}. Empty where the list has none.
    paraphrases
        Other wordings, which take the place of synonyms where there are none.
    subjects
        Subjects of a style's pictures.
    neighbours
        Names of look-alikes.
    placeholder
        Whether the name is one for the reader to replace.
    """

    name: str
    group: str
    prompts: tuple[str, ...]
    contexts: tuple[str, ...]
    paraphrases: tuple[str, ...]
    subjects: tuple[str, ...]
    synonyms: tuple[str, ...]
    neighbours: tuple[str, ...]
    placeholder: bool = False


def load_list(name: str) -> dict[str, BenchConcept]:
    """Concepts of one of LISTS by name; raises ValueError on a concept without prompts or neighbours."""
    groups = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))["groups"]
    concepts = [
        _concept(name, group, {**shared, **fields})
        for group, shared in groups.items()
        for name, fields in shared["concepts"].items()
    ]
    return {concept.name: concept for concept in concepts}


def list_of(model: str) -> str:
    """Name of the list whose concepts a model with this label forgets."""
    return MINIATURE if model in (MINIATURE, MINIATURE_FLUX) else STABLE_DIFFUSION


def _concept(name: str, group: str, fields: dict[str, Any]) -> BenchConcept:
    if group not in GROUPS or not fields.get("prompts") or not fields.get("neighbours"):
        raise ValueError(f"Expected a group of {', '.join(GROUPS)}, prompts and neighbours for {name!r}, got {fields}.")
    texts = {k: tuple(fields.get(k, ())) for k in _TEXTS}
    return BenchConcept(name, group, **texts, placeholder=bool(fields.get("placeholder")))
