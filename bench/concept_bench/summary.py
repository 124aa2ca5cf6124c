"""Summarises cells: one row for each method, group of concepts and number of concepts forgotten at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.concept_bench.concepts import list_of, load_list
from fmn_core.scores.accuracies import harmonic_mean_of_erasure, interval

RESAMPLES, LEVEL = 2000, 0.95
FIRST = ("H_o", "UA", "IRA", "CRA", "attacked", "drift", "seconds", "artefact_bytes")
# Figures of the cells from which H_o is computed.
TERMS = ("erased", "IRA", "generality")


def group_of(row: dict[str, Any]) -> str:
    """identity, object or style; the group of the first where several are forgotten at once."""
    return load_list(list_of(row["model"]))[row["concepts"][0]].group


def summaries(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows `method, kind, concepts` (how many at once), every figure's mean over the cells with `_low` and `_high`, and `cells`, `seeds`.

    H_o is that of the mean accuracies, as MACE computes it, and its interval comes from resampling cells: of 8 pictures and 4, a single
    cell's is coarse. `results`: rows of one ask. Other intervals are bootstrap intervals of a mean over cells, 95 %.
    """
    parts: dict[tuple, list[dict]] = {}
    for row in results:
        parts.setdefault((row["method"], group_of(row), len(row["concepts"])), []).append(row)
    return [_summary(*key, rows) for key, rows in parts.items()]


def _summary(method: str, kind: str, concepts: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    cells = [row["figures"] for row in rows]
    named = sorted({k for cell in cells for k, v in cell.items() if isinstance(v, int | float)} - {"H_o", "H_o_before"})
    means, bounds = {}, {}
    for name in named:
        values = [cell[name] for cell in cells if isinstance(cell.get(name), int | float)]
        means[name] = float(np.mean(values))
        bounds[f"{name}_low"], bounds[f"{name}_high"] = interval(values, LEVEL)
    means |= {"H_o": harmonic_mean_of_erasure(*(means[t] for t in TERMS))}
    bounds["H_o_low"], bounds["H_o_high"] = erasure_interval(cells)
    about = {"method": method, "kind": kind, "concepts": concepts}
    known = {name: means.get(name) for name in FIRST}
    return {**about, **known, **means, **bounds, "cells": len(cells), "seeds": len({r["seed"] for r in rows})}


def erasure_interval(cells: Sequence[dict[str, float]], seed: int = 0) -> tuple[float, float]:
    """The bootstrap percentile interval of H_o of the mean accuracies over cells."""
    terms = np.array([[cell[t] for t in TERMS] for cell in cells])
    drawn = np.random.default_rng(seed).integers(len(terms), size=(RESAMPLES, len(terms)))
    # A mean of shares may pass 1 by rounding.
    found = [harmonic_mean_of_erasure(*np.clip(means, 0, 1).tolist()) for means in terms[drawn].mean(1)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def concept_rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """H_o by method and concept, each a mean over the seeds."""
    parts: dict[tuple, list[dict]] = {}
    for row in results:
        parts.setdefault((row["method"], ", ".join(row["concepts"])), []).append(row["figures"])
    rows = []
    for (method, concepts), cells in parts.items():
        means = {t: float(np.mean([c[t] for c in cells])) for t in TERMS}
        rows.append({"method": method, "concepts": concepts, **means, "H_o": harmonic_mean_of_erasure(*means.values())})
    return rows
