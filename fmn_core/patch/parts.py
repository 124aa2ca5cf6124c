"""The parts of a patch whose file holds several side by side, taken apart again."""

from __future__ import annotations

from typing import Any

from .patch import Factors, ForgetPatch


def parts_of(patch: ForgetPatch) -> list[ForgetPatch]:
    """The patches that stand side by side in a patch, at the strengths they were given; the patch itself where it is one.

    A description that does not fit the factors, as a file changed by another tool may have, counts as none.
    """
    found, ends, concepts = [], dict.fromkeys(patch.factors, 0), 0
    for part in patch.parts:
        ranks, count = _ranks(part, patch), part.get("concepts")
        if ranks is None or not isinstance(count, int) or not 0 < count <= len(patch.concepts) - concepts:
            return [patch]
        factors = {name: _columns(patch.factors[name], ends[name], rank) for name, rank in ranks.items()}
        for name, rank in ranks.items():
            ends[name] += rank
        named, concepts = patch.concepts[concepts : concepts + count], concepts + count
        found.append(ForgetPatch(factors, named, patch.base, _mapping(part, "settings"), _mapping(part, "figures")))
    whole = concepts == len(patch.concepts) and all(ends[n] == f.rank for n, f in patch.factors.items())
    return found if found and whole else [patch]


def description(part: ForgetPatch) -> dict[str, Any]:
    """What a part needs to be itself again: how many of the concepts and of the ranks are its own, and how it was made."""
    ranks = {name: f.rank for name, f in part.factors.items()}
    figures = {k: v for k, v in part.figures.items() if k not in ("layers", "seconds")}
    return {"concepts": len(part.concepts), "ranks": ranks, "settings": part.settings, "figures": figures}


def _ranks(part: dict[str, Any], patch: ForgetPatch) -> dict[str, int] | None:
    """A part's rank by layer, or None where its description cannot be of this patch."""
    ranks = part.get("ranks")
    if not isinstance(ranks, dict) or not ranks:
        return None
    fits = all(name in patch.factors and type(rank) is int and rank > 0 for name, rank in ranks.items())
    return ranks if fits else None


def _columns(f: Factors, start: int, rank: int) -> Factors:
    """Some ranks of a layer's factors, as a change of their own: alpha / rank stays."""
    return Factors(f.up[:, start : start + rank], f.down[start : start + rank], f.alpha * rank / f.rank)


def _mapping(part: dict[str, Any], key: str) -> dict[str, Any]:
    found = part.get(key)
    return found if isinstance(found, dict) else {}
