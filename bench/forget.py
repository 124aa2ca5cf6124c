"""Forgetting on the miniature, method by method: python -m bench.forget [--quick] [--concepts a,b] [--json FILE]

Rows: method, concept, forget_before, forget_after, synonym_after, keep_drop, style_after, drift, seconds, patch_bytes,
unlisted_drop. forget: share of pictures in which the judge sees the concept, with templates and seeds that no solve and
no training used. keep_drop: share that the other concepts lose; unlisted_drop: share that those lose which were not
listed to be preserved. drift: mean squared error of their pictures. Writes bench/results/forget.md and forget.png (not
with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.methods import Method, by_gradient, closed_form, preserved_half, published, unlisted_half, zero_attention
from bench.picture_pages import grid_page
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Evaluation, World, other_concepts

CONCEPTS = ("zebra", "dog", "red apple", "santa claus", "pizza")
COLUMNS = (
    "method",
    "concept",
    "forget_before",
    "forget_after",
    "synonym_after",
    "keep_drop",
    "style_after",
    "drift",
    "seconds",
    "patch_bytes",
    "unlisted_drop",
)
HALF = "closed form, only every other concept listed to be preserved"
# Candidates for the published loop's best single rate; its users tune the rate for each concept.
PUBLISHED_RATES = (1e-5, 3e-5, 6e-5)


def methods(best_rate: float) -> dict[str, tuple[Method, Callable[[str], list[str]]]]:
    """Methods by name, each with a function that lists the concepts whose keeping is measured."""
    return {
        "closed form": (closed_form(other_concepts), other_concepts),
        HALF: (closed_form(preserved_half), other_concepts),
        "closed form, synonyms listed": (closed_form(other_concepts, synonyms=True), other_concepts),
        "re-steering": (by_gradient(other_concepts), other_concepts),
        f"published loop, best single setting (whole UNet, 35 x {best_rate:g})": (
            published(learning_rate=best_rate),
            other_concepts,
        ),
        "zero attention at inference, phrase and end tokens": (zero_attention("all"), other_concepts),
        "published loop, published setting (whole UNet, 35 x 2e-6)": (published(), other_concepts),
        "re-steering, no preservation": (by_gradient(other_concepts, preservation=0.0), other_concepts),
        "zero attention at inference, phrase": (zero_attention("none"), other_concepts),
    }


def best_published_rate(world: World, concepts: list[str]) -> tuple[float, list[str]]:
    """Learning rate with the least sum of forget_after and keep_drop over the concepts, and a line for each trial."""
    scores, lines = {}, []
    for rate in PUBLISHED_RATES:
        total = 0.0
        for concept in concepts:
            evaluation = Evaluation(world, concept, other_concepts(concept), quick=True, seed=5000)
            evaluation.measure()  # draws the pictures before forgetting
            with published(learning_rate=rate)(world, concept) as applied:
                figures = evaluation.measure(applied.model)
            total += figures["forget_after"] + figures["keep_drop"]
            lines.append(
                f"{rate:g} {concept}: forget_after {figures['forget_after']:.2f}, keep_drop {figures['keep_drop']:.2f}"
            )
            print(lines[-1], flush=True)
        scores[rate] = total
    return min(scores, key=scores.__getitem__), lines


def measure_methods(world: World, concepts: list[str], rate: float, quick: bool, only: str) -> tuple[list[dict], dict]:
    """Rows, and one picture of every method and concept; an interrupted run returns what it has measured."""
    rows, pictures = [], {}
    jobs = [(n, m, kept, c) for n, (m, kept) in methods(rate).items() if only in n for c in concepts]
    try:
        for name, method, kept, concept in jobs:
            row, pictures[name, concept] = row_of(world, name, method, concept, kept(concept), quick)
            rows.append(row)
            print(json.dumps(row), flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    return rows, pictures


def row_of(
    world: World, name: str, method: Method, concept: str, others: list[str], quick: bool
) -> tuple[dict, torch.Tensor]:
    """The row of one method and concept, and a picture."""
    # With one picture of each other concept, a single loss would count for three points.
    per_other = 4 if name.startswith("closed form") and not quick else 1
    evaluation = Evaluation(world, concept, others, quick, per_other=per_other)
    evaluation.measure()  # draws the pictures before forgetting
    with method(world, concept) as applied:
        figures = evaluation.measure(applied.model, applied.sampler)
    cost = {"seconds": round(applied.seconds, 2), "patch_bytes": applied.patch_bytes}
    cost["unlisted_drop"] = evaluation.drop_of(unlisted_half(concept)) if name == HALF else ""
    return {"method": name, "concept": concept, **figures, **cost}, evaluation.first_picture


def search_text(search: list[str]) -> str:
    """Text on the search for the published loop's best single setting; empty without one."""
    if not search:
        return ""
    lines = "\n".join("- " + line for line in search)
    return f"The search for the published loop's best single setting (quick, some of the concepts, other seeds):\n\n{lines}\n"


def write_results(rows: list[dict], floors: dict[str, float], search: list[str], machine_line: str) -> None:
    """Writes the results page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = f"""# Forgetting on the miniature

Made by `python -m bench.forget` on {machine_line}, {time.strftime("%Y-%m-%d")}. One concept at a time, the same settings for all.
forget, synonym: share of pictures in which the judge still sees the concept (lower is better; 4 and 1 pictures per style in
which the concept was drawn; seeds and templates that nothing was made with). keep_drop: share lost by the other concepts (132 pictures
for the closed form, 33 for the others); unlisted_drop: by those of them that were not listed. style_after:
share in which the judge sees the prompt's style. drift: mean squared error of the other concepts' pictures (0..1). patch_bytes: the file.
Sampling: Euler, 12 steps, guidance 3.

{markdown_table(rows, COLUMNS)}

The floor: how often the untouched model draws the concept when the phrase is left out of the same prompts:
{", ".join(f"{c} {f:.2f}" for c, f in floors.items())}.

{search_text(search)}
![one picture per method and concept](forget.png)
"""
    (RESULTS / "forget.md").write_text(text)


def write_picture(pictures: dict, world: World) -> None:
    """Writes forget.png: the first picture of every method (rows) and concept (columns)."""
    concepts = list(dict.fromkeys(c for _, c in pictures))
    names = [n for n in dict.fromkeys(n for n, _ in pictures) if all((n, c) in pictures for c in concepts)]
    before = [world.sample(Evaluation(world, c, []).target)[:1] for c in concepts]
    images = torch.cat(before + [pictures[n, c] for n in names for c in concepts])
    grid_page(images, ["before", *(n[:36] for n in names)], concepts, cell=96, left=240).save(RESULTS / "forget.png")


def merge_runs(files: list[Path]) -> dict:
    """Result of several runs; rows of partial runs (--only with --json) replace those of the first file."""
    parts = [json.loads(f.read_text()) for f in files]
    rows = {(r["method"], r["concept"]): r for p in parts for r in p["rows"]}
    return {**parts[0], "rows": list(rows.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the pictures; writes no results page")
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--only", default="", help="methods whose name holds this text; writes no results page")
    parser.add_argument("--published-rate", type=float, help="skip the search for the published loop's best rate")
    parser.add_argument("--merge", type=Path, nargs="+", help="JSON files of runs with --only, in place of measuring")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    concepts = [c.strip() for c in args.concepts.split(",")]
    result = merge_runs(args.merge) if args.merge else measure_run(args, concepts)
    print(markdown_table(result["rows"], COLUMNS))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    if args.merge or not (args.quick or args.only):
        write_results(result["rows"], result["floor"], result["published_search"], result["machine"])


def measure_run(args: argparse.Namespace, concepts: list[str]) -> dict:
    """All figures of a run; a whole run also writes forget.png."""
    world, search, rate = World(), [], args.published_rate
    if rate is None:
        rate, search = best_published_rate(world, concepts[:1] if args.quick else concepts[::2])
    floors = {c: Evaluation(world, c, [], args.quick).fallback_rate() for c in concepts}
    print("floor:", floors)
    rows, pictures = measure_methods(world, concepts, rate, args.quick, args.only)
    if not (args.quick or args.only):
        write_picture(pictures, world)
    return {"rows": rows, "floor": floors, "published_search": search, "machine": machine()}


if __name__ == "__main__":
    main()
