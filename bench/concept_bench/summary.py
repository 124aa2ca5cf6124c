"""Summarises cells by method, group of concepts, and number of concepts forgotten at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.concept_bench.concepts import list_of, load_list
from fmn_core.scores.accuracies import harmonic_mean_of_erasure, interval

RESAMPLES, LEVEL = 2000, 0.95
LEADING_COLUMNS = (
    "H_o", "UA", "ua_contexts", "residue_probability", "residue_similarity", "IRA", "CRA", "attacked", "drift", "seconds", "artefact_bytes",
)  # fmt: skip
# Figures of the cells from which H_o is computed.
TERMS = ("erased", "IRA", "generality")


def concept_group(row: dict[str, Any]) -> str:
    """Group of a row's concept, or of the first one where several are forgotten at once."""
    return load_list(list_of(row["model"]))[row["concepts"][0]].group


def summaries(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each method, group and number of concepts.

    Parameters
    ----------
    results
        Rows of the store, all of one ask.

    Returns
    -------
    list
        Rows with `method`, `kind`, `concepts` (number at once), each figure's mean over the cells with its 95 % interval in
        `_low` and `_high`, and the numbers of `cells` and `seeds`.

    Notes
    -----
    H_o is computed from the mean accuracies, as in MACE, and its interval by resampling cells, because the H_o of a
    single cell, from 8 and 4 pictures, is coarse. The other intervals are bootstrap intervals of a mean over cells.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in results:
        groups.setdefault((row["method"], concept_group(row), len(row["concepts"])), []).append(row)
    return [_summary(*key, rows) for key, rows in groups.items()]


def _summary(method: str, kind: str, concepts: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    cells = [row["figures"] for row in rows]
    names = sorted({k for cell in cells for k, v in cell.items() if isinstance(v, int | float)} - {"H_o", "H_o_before"})
    means, bounds = {}, {}
    for name in names:
        samples = [cell[name] for cell in cells if isinstance(cell.get(name), int | float)]
        means[name] = float(np.mean(samples))
        bounds[f"{name}_low"], bounds[f"{name}_high"] = interval(samples, LEVEL)
    means |= {"H_o": harmonic_mean_of_erasure(*(means[t] for t in TERMS))}
    bounds["H_o_low"], bounds["H_o_high"] = erasure_interval(cells)
    key = {"method": method, "kind": kind, "concepts": concepts}
    leading = {name: means.get(name) for name in LEADING_COLUMNS}
    return {**key, **leading, **means, **bounds, "cells": len(cells), "seeds": len({r["seed"] for r in rows})}


def erasure_interval(cells: Sequence[dict[str, float]], seed: int = 0) -> tuple[float, float]:
    """Bootstrap percentile interval of the H_o of mean accuracies over cells."""
    terms = np.array([[cell[t] for t in TERMS] for cell in cells])
    drawn = np.random.default_rng(seed).integers(len(terms), size=(RESAMPLES, len(terms)))
    # A mean of shares may exceed 1 by rounding.
    samples = [harmonic_mean_of_erasure(*np.clip(means, 0, 1).tolist()) for means in terms[drawn].mean(1)]
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def concept_rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """H_o by method and concept, from mean accuracies over the seeds."""
    groups: dict[tuple, list[dict]] = {}
    for row in results:
        groups.setdefault((row["method"], ", ".join(row["concepts"])), []).append(row["figures"])
    rows = []
    for (method, concepts), cells in groups.items():
        means = {t: float(np.mean([c[t] for c in cells])) for t in TERMS}
        rows.append({"method": method, "concepts": concepts, **means, "H_o": harmonic_mean_of_erasure(*means.values())})
    return rows
