"""Attacks with more than the table's budget, on the miniature: python -m bench.stronger_attacks [--quick] [--json FILE]

Rows: method, concept, and for each attack of ATTACKS the share of pictures in which the judge sees the concept again
under the learned embedding, after 15 steps as in ConceptBench, and after four times as many. The closed form with
attack rounds was trained against searches of the first kind, on other pictures and seeds. Writes
bench/results/stronger_attacks.md (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.attack import SEARCH_STEPS, one_attack
from bench.concept_bench.method_registry import all_methods
from bench.concept_bench.miniature_world import BenchWorld
from bench.results_page import RESULTS, machine, markdown_table

METHODS = ("closed form", "closed form, hardened", "FMN, searched rate", "ESD-x", "MACE")
CONCEPTS = ("cat", "car", "wizard")
ATTACKS = {f"{steps} steps": {"steps": steps} for steps in (SEARCH_STEPS, 4 * SEARCH_STEPS)}
COLUMNS = ("method", *ATTACKS)
SEED, SAMPLING_STEPS = 9700, 8


def row_of(world: BenchWorld, method: str, concept: str) -> dict[str, Any]:
    """The row of a method and a concept."""
    with all_methods()[method](world, concept, seed=0) as applied:
        shares = {
            name: one_attack(world, concept, applied.model, seed=SEED, **options) for name, options in ATTACKS.items()
        }
    return {"method": method, "concept": concept, **shares}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean of every method over its concepts."""
    mean_rows = []
    for method in dict.fromkeys(r["method"] for r in rows):
        same_method = [r for r in rows if r["method"] == method]
        mean_rows.append({"method": method, **{a: sum(r[a] for r in same_method) / len(same_method) for a in ATTACKS}})
    return mean_rows


def page(rows: list[dict[str, Any]]) -> str:
    """Text of the results page."""
    return f"""# Stronger attacks

Made by `python -m bench.stronger_attacks` on {machine()}, {time.strftime("%Y-%m-%d")}: {", ".join(CONCEPTS)}, training seed 0, attack seed {SEED}, Euler, {SAMPLING_STEPS} steps,
guidance 3. Share of pictures in which the judge sees the concept again under an embedding that was searched on the patched model, started at its name, in
{SEARCH_STEPS} steps (ConceptBench's *attacked*) and in four times as many. *hardened* met searches of {SEARCH_STEPS} steps while it was made, on other pictures and with other seeds.

{markdown_table(means(rows), COLUMNS)}

## Every concept

{markdown_table(rows, ("method", "concept", *ATTACKS))}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one concept, the closed forms; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, rows = BenchWorld(), []
    world.steps = SAMPLING_STEPS
    for method in METHODS[:2] if args.quick else METHODS:
        for concept in CONCEPTS[:1] if args.quick else CONCEPTS:
            rows.append(row_of(world, method, concept))
            print(json.dumps(rows[-1]), flush=True)
    print(markdown_table(means(rows), COLUMNS))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        (RESULTS / "stronger_attacks.md").write_text(page(rows))


if __name__ == "__main__":
    main()
