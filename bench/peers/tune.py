"""Searches each peer's settings on the miniature: python -m bench.peers.tune [--peers UCE MACE] [--more]

The concepts, frog and umbrella, are in no table; one seed. Every candidate is tried on the first concept; the best is
tried on both, and the second best, too, where its score is near. The chosen candidate has the highest mean score, which
is the harmonic mean of 1 - forget_after, 1 - synonym_after and 1 - keep_drop, over a third of the other concepts and 8
sampling steps. "FMN, released rate" has one candidate, so that it is measured like the others and stays as released.
Writes all candidates with their figures to bench/results/peers.json, from which PEERS reads. `--more` keeps the
candidates in the file and tries only new ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from typing import Any

import torch

from bench.peers import PEERS
from bench.peers.settings import FILE, PUBLISHED
from bench.results_page import machine
from bench.world import Evaluation, World, other_concepts

CONCEPTS = ("frog", "umbrella")
SEED = 50000
# A second-best candidate whose score is further behind on the first concept is not tried on the others.
NEAR = 0.15
FIGURES = ("forget_after", "synonym_after", "keep_drop", "style_after", "drift")


def _candidates(fixed: dict[str, Any], *choices: dict[str, Any]) -> list[dict[str, Any]]:
    """Settings with the fixed part and each of the choices."""
    return [fixed | choice for choice in choices]


_ESD = {"iterations": 80, "sampling_steps": 8}
_PICTURE = "a picture of a {}"
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "ESD-x": _candidates(_ESD, {"rate": 1e-4}, {"rate": 3e-4}, {"rate": 3e-4, "template": _PICTURE}),
    "ESD-x, our contexts": _candidates(_ESD, {"rate": 1e-4}, {"rate": 3e-4}),
    "MACE": _candidates(
        {"mapped_to": "house", "sampling_steps": 12, "guidance": 3.0},
        {"preserve_scale": 0.1},
        {"preserve_scale": 1.0},
        {"preserve_scale": 1.0, "rate": 1e-3},
    ),
    "FMN, released rate": _candidates({}, {}),
    "FMN, searched rate": _candidates({}, {"rate": 6e-5}, {"rate": 1e-4}),
    "RECE": _candidates({}, {}, {"rounds": 3}, {"regular_scale": 0.1}),
    "RECE, our contexts": _candidates({}, {}, {"preserve_scale": 1.0}, {"regular_scale": 0.1}),
    "Concept Ablation": _candidates(
        {"steps": 50, "batch": 4, "pictures": 16, "sampling_steps": 12, "guidance": 3.0}, {"rate": 1e-4}, {"rate": 3e-4}
    ),
    "ESD-u": _candidates(_ESD, {"rate": 3e-5}, {"rate": 1e-4}),
    "SPM": _candidates(
        {"iterations": 40, "sampling_steps": 8},
        {"rate": 3e-3},
        {"rate": 1e-2},
        {"rate": 1e-2, "anchoring": 1.0},
        {"rate": 3e-2, "anchoring": 1.0},
        {"rate": 3e-2, "anchoring": 30.0},
    ),
    "SPEED": _candidates(
        {},
        {},
        {"retain_scale": 0.05, "filtered": False},
        {"threshold": 0.01, "relative": True, "retain_scale": 0.05},
        {"threshold": 0.01, "relative": True, "retain_scale": 0.05, "filtered": False},
        {"last_row_only": False},
        {"last_row_only": False, "threshold": 0.001, "relative": True, "retain_scale": 0.05},
        {"last_row_only": False, "threshold": 0.001, "relative": True, "retain_scale": 0.05, "filtered": False},
    ),
    "SPEED, our contexts": _candidates(
        {"our_contexts": True},
        {},
        {"last_row_only": False},
        {"last_row_only": False, "threshold": 0.001, "relative": True, "retain_scale": 0.05},
        {"last_row_only": False, "threshold": 0.0001, "relative": True, "retain_scale": 0.05},
    ),
    "UCE": _candidates({}, {}, {"preserve_scale": 1.0}),
    "UCE, our contexts": _candidates({}, {}, {"preserve_scale": 1.0}),
}


def try_candidate(world: World, name: str, settings: dict[str, Any], concept: str) -> dict[str, Any]:
    """Figures and cost of one candidate on one concept."""
    evaluation = Evaluation(world, concept, other_concepts(concept)[::3], quick=True, seed=SEED)
    evaluation.measure(world.model)  # draws the pictures before forgetting
    started = time.process_time()
    with PEERS[name](world, concept, chosen=dataclasses.replace(PUBLISHED[name], **settings)) as applied:
        spent = time.process_time() - started
        figures = evaluation.measure(applied.model, applied.sampler)
    selected = {figure: figures[figure] for figure in FIGURES}
    cost = {"seconds": round(applied.seconds, 1), "cpu_seconds": round(spent, 1), "patch_bytes": applied.patch_bytes}
    return {"settings": settings, "concept": concept, **selected, **cost, "score": round(score(selected), 4)}


def score(figures: dict[str, float]) -> float:
    """Harmonic mean of the shares forgotten by name and by synonym and the share kept; 0 where one of them is 0."""
    parts = (1 - figures["forget_after"], 1 - figures["synonym_after"], min(1.0, 1 - figures["keep_drop"]))
    return statistics.harmonic_mean([max(0.0, part) for part in parts])


def rank_key(row: dict[str, Any]) -> tuple[float, float]:
    """Sort key of a row: the score, then the sum of the unwanted figures, which tells candidates of score 0 apart."""
    return row["score"], -row["forget_after"] - row["synonym_after"] - row["keep_drop"] - row["drift"]


def try_candidates(world: World, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows of a peer: every candidate on the first concept, and the best one or two on the others."""

    def row_of(settings: dict[str, Any], concept: str) -> dict[str, Any]:
        known_rows = [r for r in rows if r["settings"] == settings and r["concept"] == concept]
        if not known_rows:
            rows.append(try_candidate(world, name, settings, concept))
            print(name, json.dumps(rows[-1]), flush=True)
        return known_rows[0] if known_rows else rows[-1]

    first = [row_of(settings, CONCEPTS[0]) for settings in CANDIDATES[name]]
    best, *next_best = sorted(first, key=rank_key, reverse=True)
    for row in (best, *(r for r in next_best[:1] if r["score"] >= best["score"] - NEAR)):
        for concept in CONCEPTS[1:]:
            row_of(row["settings"], concept)
    return rows


def choose(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The candidate with the best mean score, its differences from the published settings, and all rows."""
    by_settings = [[r for r in rows if r["settings"] == row["settings"]] for row in rows]
    whole = [group for group in by_settings if len(group) == len(CONCEPTS)]
    best = max(whole, key=lambda group: tuple(statistics.mean(values) for values in zip(*map(rank_key, group))))
    settings, published = best[0]["settings"], PUBLISHED[name]
    changed = {k: f"{v} (published {getattr(published, k)})" for k, v in settings.items()}
    summary = {"score": round(statistics.mean(r["score"] for r in best), 4), "differs": changed}
    return {"settings": settings, **summary, "tried": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--more", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = World(steps=8)
    for name in args.peers:
        page = json.loads(FILE.read_text()) if FILE.exists() else {"peers": {}}
        known_rows = page["peers"].get(name, {}).get("tried", []) if args.more else []
        page["peers"][name] = choose(name, try_candidates(world, name, known_rows))
        page |= {"command": "python -m bench.peers.tune", "machine": machine(), "concepts": CONCEPTS, "seed": SEED}
        FILE.write_text(json.dumps(page, indent=1) + "\n")
        print(name, page["peers"][name]["settings"], page["peers"][name]["score"], flush=True)


if __name__ == "__main__":
    main()
