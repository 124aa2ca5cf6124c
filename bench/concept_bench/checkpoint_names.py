"""Looks up the concepts of the list for Stable Diffusion models, with the interface of bench.names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from bench.concept_bench.concepts import STABLE_DIFFUSION, BenchConcept, load_list

_ARTICLE = re.compile(r"(an?|the) ", re.IGNORECASE)


@cache
def known_concepts() -> dict[str, BenchConcept]:
    """Concepts of the list by name, without placeholders."""
    return {name: c for name, c in load_list(STABLE_DIFFUSION).items() if not c.placeholder}


def concepts_named(names: Sequence[str]) -> list[BenchConcept]:
    """Concepts that are forgotten at once; raises ValueError on an unknown name, and on a style among several."""
    known = known_concepts()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"Expected concepts of: {'; '.join(known)}. Got {', '.join(unknown) or 'none'}.")
    concepts = [known[name] for name in names]
    if len(concepts) > 1 and any(c.group == "style" for c in concepts):
        raise ValueError(
            f"Expected one style, or things alone, got {', '.join(names)}. Give a style a task of its own."
        )
    return concepts


def names_to_keep(names: Sequence[str]) -> list[str]:
    """Names of the concepts to keep: the neighbours first, then the other names of the same groups."""
    concepts = concepts_named(names)
    groups = {c.group for c in concepts}
    neighbours = [n for c in concepts for n in c.neighbours]
    same_group = [c.name for c in known_concepts().values() if c.group in groups]
    return [n for n in dict.fromkeys((*neighbours, *same_group)) if n not in names]


def without_article(name: str) -> str:
    """A name without its article: "zebra" for "a zebra"."""
    return _ARTICLE.sub("", name, count=1) if _ARTICLE.match(name) else name


class ListedNames:
    """Lookup of the list's concepts. Their names have the articles that prompts need, their phrases have none."""

    def kind(self, name: str) -> str:
        """The concept's group."""
        return known_concepts()[name].group

    def phrase(self, name: str) -> str:
        """The name without its article."""
        return without_article(name)

    def synonyms(self, name: str) -> Sequence[str]:
        """The synonyms without their articles."""
        return [without_article(s) for s in known_concepts()[name].synonyms]

    def others_of_kind(self, names: Sequence[str]) -> list[str]:
        """Phrases of the concepts that the task asks for as others."""
        return [without_article(n) for n in names_to_keep(names)]

    def all_others(self, names: Sequence[str]) -> list[str]:
        """Phrases of the others of the same kind, and then of the rest of the list."""
        rest = [n for n in known_concepts() if n not in names]
        return [without_article(n) for n in dict.fromkeys((*names_to_keep(names), *rest))]

    def anchors(self, name: str) -> list[str]:
        """The others of the same kind."""
        return self.others_of_kind([name])

    def substitute(self, name: str) -> str:
        """Phrase of the first neighbour."""
        return without_article(known_concepts()[name].neighbours[0])
