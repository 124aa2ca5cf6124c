"""The parts of a patch that holds several patches side by side."""

from __future__ import annotations

from typing import Any

from .patch import OF_THE_RUN, Factors, ForgetPatch


def parts_of(patch: ForgetPatch) -> list[ForgetPatch]:
    """Splits a patch into its parts.

    Returns
    -------
    The patches that stand side by side, with their strengths applied. The patch itself where it has no parts, or where their
    description does not fit the factors, as in a file that another tool has changed.
    """
    parts, ends, concepts = [], dict.fromkeys(patch.factors, 0), 0
    for record in patch.parts:
        ranks, count = _ranks(record, patch), record.get("concepts")
        if ranks is None or not isinstance(count, int) or not 0 < count <= len(patch.concepts) - concepts:
            return [patch]
        factors = {name: _slice_ranks(patch.factors[name], ends[name], rank) for name, rank in ranks.items()}
        for name, rank in ranks.items():
            ends[name] += rank
        named, concepts = patch.concepts[concepts : concepts + count], concepts + count
        parts.append(ForgetPatch(factors, named, patch.base, _mapping(record, "settings"), _mapping(record, "figures")))
    complete = concepts == len(patch.concepts) and all(ends[n] == f.rank for n, f in patch.factors.items())
    return parts if parts and complete else [patch]


def describe_part(part: ForgetPatch) -> dict[str, Any]:
    """The record from which parts_of restores a part: its number of concepts, its ranks by layer, settings and figures."""
    ranks = {name: f.rank for name, f in part.factors.items()}
    figures = {k: v for k, v in part.figures.items() if k not in ("layers", *OF_THE_RUN)}
    return {"concepts": len(part.concepts), "ranks": ranks, "settings": part.settings, "figures": figures}


def _ranks(record: dict[str, Any], patch: ForgetPatch) -> dict[str, int] | None:
    """A part's rank by layer, or None where they do not fit the patch."""
    ranks = record.get("ranks")
    if not isinstance(ranks, dict) or not ranks:
        return None
    fits = all(name in patch.factors and type(rank) is int and rank > 0 for name, rank in ranks.items())
    return ranks if fits else None


def _slice_ranks(f: Factors, start: int, rank: int) -> Factors:
    """Takes `rank` ranks of a layer's factors from `start` on; alpha / rank stays."""
    return Factors(f.up[:, start : start + rank], f.down[start : start + rank], f.alpha * rank / f.rank)


def _mapping(record: dict[str, Any], key: str) -> dict[str, Any]:
    mapping = record.get(key)
    return mapping if isinstance(mapping, dict) else {}
