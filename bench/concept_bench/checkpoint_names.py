"""Names and phrases of the list for Stable Diffusion models, with the interface of bench.names; placeholders are left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from bench.concept_bench.concepts import STABLE_DIFFUSION, BenchConcept, load_list

_ARTICLE = re.compile(r"(an?|the) ", re.IGNORECASE)


@cache
def known_concepts() -> dict[str, BenchConcept]:
    return {name: c for name, c in load_list(STABLE_DIFFUSION).items() if not c.placeholder}


def concepts_named(names: Sequence[str]) -> list[BenchConcept]:
    """Concepts to be forgotten together. Raises ValueError on a name that the list lacks, and on a style beside others."""
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


def others(names: Sequence[str]) -> list[str]:
    """The concepts to keep, as prompts name them: neighbours first, then the other names of the same groups."""
    concepts = concepts_named(names)
    groups = {c.group for c in concepts}
    beside = [n for c in concepts for n in c.neighbours]
    same = [c.name for c in known_concepts().values() if c.group in groups]
    return [n for n in dict.fromkeys((*beside, *same)) if n not in names]


def bare(name: str) -> str:
    """A name without its article: "zebra" of "a zebra"."""
    return _ARTICLE.sub("", name, count=1) if _ARTICLE.match(name) else name


class ListedNames:
    """Names of the list, with the articles that prompts need; phrases are without."""

    def kind(self, name: str) -> str:
        return known_concepts()[name].group

    def phrase(self, name: str) -> str:
        return bare(name)

    def synonyms(self, name: str) -> Sequence[str]:
        return [bare(s) for s in known_concepts()[name].synonyms]

    def others_of_kind(self, names: Sequence[str]) -> list[str]:
        """Everything that the task asks for as others."""
        return [bare(n) for n in others(names)]

    def all_others(self, names: Sequence[str]) -> list[str]:
        """The same, and the rest of the list."""
        rest = [n for n in known_concepts() if n not in names]
        return [bare(n) for n in dict.fromkeys((*others(names), *rest))]

    def anchors(self, name: str) -> list[str]:
        return self.others_of_kind([name])

    def substitute(self, name: str) -> str:
        """The first neighbour."""
        return bare(known_concepts()[name].neighbours[0])
