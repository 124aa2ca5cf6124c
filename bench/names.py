"""Looks up a world's concepts by name: kinds, phrases, synonyms, and the other concepts to preserve.

A world that is not the miniature has its lookup in the attribute `names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, FALLBACK, STYLE_NAMES


class Names(Protocol):
    """Lookup of things (objects and identities) and styles by name. Phrases have no article."""

    def kind(self, name: str) -> str:
        """The kind of a concept: object, identity or style."""
        ...

    def phrase(self, name: str) -> str:
        """The phrase that a method forgets."""
        ...

    def synonyms(self, name: str) -> Sequence[str]:
        """Other phrases for the concept."""
        ...

    def others_of_kind(self, names: Sequence[str]) -> list[str]:
        """Phrases of the other styles for a style, or of the other things for things."""
        ...

    def all_others(self, names: Sequence[str]) -> list[str]:
        """Phrases of all other things and styles."""
        ...

    def anchors(self, name: str) -> list[str]:
        """Phrases of the same kind that may take the phrase's place."""
        ...

    def substitute(self, name: str) -> str:
        """The phrase that takes the concept's place in a method that needs one substitute."""
        ...


class MiniatureNames:
    """Lookup of the miniature's concepts, whose names are their phrases."""

    def kind(self, name: str) -> str:
        """The kind of a concept; a word that is in no table counts as an object."""
        return "style" if name in STYLE_NAMES else BY_NAME[name].kind if name in BY_NAME else "object"

    def phrase(self, name: str) -> str:
        """The name itself."""
        return name

    def synonyms(self, name: str) -> Sequence[str]:
        """The synonyms that the miniature was trained with."""
        return BY_NAME[name].synonyms

    def others_of_kind(self, names: Sequence[str]) -> list[str]:
        """The other styles for a style, or the other things for things."""
        return [n for n in (STYLE_NAMES if names[0] in STYLE_NAMES else CONCEPT_NAMES) if n not in names]

    def all_others(self, names: Sequence[str]) -> list[str]:
        """All other things and styles."""
        return [name for name in (*CONCEPT_NAMES, *STYLE_NAMES) if name not in names]

    def anchors(self, name: str) -> list[str]:
        """All concepts of the same kind."""
        return self.of_kind(self.kind(name))

    def of_kind(self, kind: str) -> list[str]:
        """All concepts of a kind."""
        return [n for n in CONCEPT_NAMES if BY_NAME[n].kind == kind]

    def substitute(self, name: str) -> str:
        """The style before it in the list for a style, a house for things."""
        return STYLE_NAMES[STYLE_NAMES.index(name) - 1] if name in STYLE_NAMES else FALLBACK


MINIATURE_NAMES = MiniatureNames()


def names_of(world: Any) -> Names:
    """The lookup of a world's concepts."""
    return getattr(world, "names", MINIATURE_NAMES)
