"""Names of a world's concepts: their kinds, the phrases to forget, and the other concepts to preserve.

A world with concepts of its own has them as `names`; every other one is the miniature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, FALLBACK, STYLE_NAMES


class Names(Protocol):
    """Looks concepts up by name: things (objects and identities) and styles. Phrases are bare, without an article."""

    def kind(self, name: str) -> str:
        """object, identity or style."""
        ...

    def phrase(self, name: str) -> str:
        """The words that a method is told to forget."""
        ...

    def synonyms(self, name: str) -> Sequence[str]:
        """Other phrases for it."""
        ...

    def others_of_kind(self, names: Sequence[str]) -> list[str]:
        """Phrases of the other styles of a style, of the other things of things."""
        ...

    def all_others(self, names: Sequence[str]) -> list[str]:
        """Phrases of everything else."""
        ...

    def anchors(self, name: str) -> list[str]:
        """Phrases of the same kind that a method may put in place of the name."""
        ...

    def substitute(self, name: str) -> str:
        """The phrase that takes the name's place where a method needs one substitute."""
        ...


class MiniatureNames:
    """The miniature's own words, which are phrases already."""

    def kind(self, name: str) -> str:
        """object, identity or style; a word that is in no table counts as an object."""
        return "style" if name in STYLE_NAMES else BY_NAME[name].kind if name in BY_NAME else "object"

    def phrase(self, name: str) -> str:
        return name

    def synonyms(self, name: str) -> Sequence[str]:
        return BY_NAME[name].synonyms

    def others_of_kind(self, names: Sequence[str]) -> list[str]:
        return [n for n in (STYLE_NAMES if names[0] in STYLE_NAMES else CONCEPT_NAMES) if n not in names]

    def all_others(self, names: Sequence[str]) -> list[str]:
        return [name for name in (*CONCEPT_NAMES, *STYLE_NAMES) if name not in names]

    def anchors(self, name: str) -> list[str]:
        return self.of_kind(self.kind(name))

    def of_kind(self, kind: str) -> list[str]:
        return [n for n in CONCEPT_NAMES if BY_NAME[n].kind == kind]

    def substitute(self, name: str) -> str:
        """The next style for a style, a house for things."""
        return STYLE_NAMES[STYLE_NAMES.index(name) - 1] if name in STYLE_NAMES else FALLBACK


MINIATURE = MiniatureNames()


def names_of(world: Any) -> Names:
    return getattr(world, "names", MINIATURE)
