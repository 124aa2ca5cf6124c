"""Does what a model predicts tell how far it has forgotten? python -m bench.predicted_forgetting [--quick] [--json FILE]

Rows: concept, method, left, missed, others (fmn_core.scores.effect), and seen, others_lost, drift by the judge and by pictures. Writes
bench/results/predicted_forgetting.md, with rank correlations over all rows; --quick: two concepts, written nowhere.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from bench.concept_bench.method_registry import all_methods
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Evaluation, World, other_concepts
from fmn_core.concepts.concept import make_concept
from fmn_core.scores.effect import concept_effect
from mini_sd.concepts import BY_NAME

CONCEPTS = ("cat", "guitar", "rocket", "banana", "wizard", "robot")
METHODS = ("closed form, listed", "UCE", "RECE", "MACE", "SPEED", "FMN, released rate", "ESD-x")
# The default's patch at these strengths, and beyond it.
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5)
COLUMNS = ("concept", "method", "left", "missed", "others", "seen", "others_lost", "drift")


def rows_of(world: World, concept: str, methods: tuple[str, ...]) -> list[dict]:
    """A row for each method and strength."""
    evaluation, rows, known = Evaluation(world, concept, other_concepts(concept)), [], all_methods()

    def add(method: str, model: object) -> None:
        figures = evaluation.measure(model)
        effect = concept_effect(
            world.adapter(),
            world.adapter_class(model, world.clip),
            thing,
            [f"a photo of a {o}" for o in evaluation.kept],
        )
        row = {"concept": concept, "method": method} | {k: round(v, 4) for k, v in asdict(effect).items()}
        row |= {"seen": figures["forget_after"], "others_lost": figures["keep_drop"], "drift": figures["drift"]}
        rows.append(row)
        print(json.dumps(row), flush=True)

    thing = make_concept(world.adapter(), concept, BY_NAME[concept].kind)
    add("nothing", world.model)
    with known["closed form"](world, concept) as applied:
        for strength in STRENGTHS:
            add(f"closed form x {strength:g}", world.host.apply_patch(world.model, applied.patch, strength)[0])
    for method in methods:
        with known[method](world, concept) as applied:
            add(method, applied.model)
    return rows


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's, ties at their mean rank."""
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, rows = World(), []
    for concept in CONCEPTS[:2] if args.quick else CONCEPTS:
        with torch.inference_mode(False):
            rows += rows_of(world, concept, METHODS[:2] if args.quick else METHODS)
    pairs = [("left", "seen"), ("missed", "seen"), ("others", "others_lost"), ("others", "drift")]
    lines = [f"* {x} and {y}: {rank_correlation([r[x] for r in rows], [r[y] for r in rows]):.2f}" for x, y in pairs]
    print(*lines, sep="\n")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        text = f"""# What a model predicts, and what a judge sees

Made by `python -m bench.predicted_forgetting` on {machine()}, {time.strftime("%Y-%m-%d")}. left: share of what the name does to the predictions
that is left; missed: distance from the untouched model without the name; others: how far other prompts moved (`fmn_core.scores.effect`).
seen, others_lost: shares of pictures by the judge; drift: mean squared error of the others' pictures. Rank correlations over all rows:

{chr(10).join(lines)}

{markdown_table(rows, COLUMNS)}
"""
        (RESULTS / "predicted_forgetting.md").write_text(text)


if __name__ == "__main__":
    main()
