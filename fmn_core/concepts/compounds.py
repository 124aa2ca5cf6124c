"""Compounds: names of other things that hold a concept's name, such as "hot dog" for "dog"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

_FILE = Path(__file__).resolve().parent / "data" / "compounds.txt"
_NEVER_ITS_LAST_WORD = "*"


def compounds_of(phrases: Sequence[str]) -> list[str]:
    """The listed names of other things that hold one of the phrases as whole words, and change with it where they are not kept.

    Notes
    -----
    A name that ends with the phrase is a kind of it ("race car" for "car") unless the list says otherwise.
    """
    wanted = [phrase.lower().split() for phrase in phrases]
    return [name for name, is_other in _listed() if any(_holds(name.split(), words, is_other) for words in wanted)]


def _holds(name: list[str], words: list[str], is_other: bool) -> bool:
    if not words or len(words) >= len(name):
        return False
    places = [n for n in range(len(name) - len(words) + 1) if name[n : n + len(words)] == words]
    return bool(places) and (is_other or places[0] + len(words) < len(name))


@cache
def _listed() -> tuple[tuple[str, bool], ...]:
    """Each name of the list, and whether it is no kind of its last word either."""
    lines = [line.strip() for line in _FILE.read_text(encoding="utf-8").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    return tuple((n.removesuffix(_NEVER_ITS_LAST_WORD).strip(), n.endswith(_NEVER_ITS_LAST_WORD)) for n in names)
