"""ConceptBench's concepts in three groups, from the lists beside this file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROUPS = ("identity", "object", "style")
MINIATURE, STABLE_DIFFUSION = LISTS = ("miniature", "stable_diffusion")
_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class BenchConcept:
    """A concept, its prompts with {x} (the concept, or a style's subject) and {s} (the style), and what is beside it.

    `paraphrases`: other wordings that stand in for synonyms where there are none. `subjects`: of a style's pictures.
    `placeholder`: a name for the reader to replace.
    """

    name: str
    group: str
    prompts: tuple[str, ...]
    paraphrases: tuple[str, ...]
    subjects: tuple[str, ...]
    synonyms: tuple[str, ...]
    neighbours: tuple[str, ...]
    placeholder: bool = False


def load_list(name: str) -> dict[str, BenchConcept]:
    """The concepts of one of LISTS by their names. Raises ValueError on a concept without prompts or neighbours."""
    groups = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))["groups"]
    found = [
        _concept(n, group, {**shared, **own})
        for group, shared in groups.items()
        for n, own in shared["concepts"].items()
    ]
    return {concept.name: concept for concept in found}


def list_of(model: str) -> str:
    """The list that a model of this label is asked from."""
    return MINIATURE if model == MINIATURE else STABLE_DIFFUSION


def _concept(name: str, group: str, given: dict[str, Any]) -> BenchConcept:
    if group not in GROUPS or not given.get("prompts") or not given.get("neighbours"):
        raise ValueError(f"Expected a group of {', '.join(GROUPS)}, prompts and neighbours for {name!r}, got {given}.")
    listed = {k: tuple(given.get(k, ())) for k in ("prompts", "paraphrases", "subjects", "synonyms", "neighbours")}
    return BenchConcept(name, group, **listed, placeholder=bool(given.get("placeholder")))
