"""The closed form's choices on the miniature, attacked too: python -m bench.variants [--quick] [--only TEXT] [--concepts a,b] [--json FILE]

Rows: variant, concept, forget_after, synonym_after, keep_drop, style_after, drift, attacked, seconds, patch_bytes, condition.
attacked: share of pictures in which the judge sees the concept under an embedding searched on the patched model (see
bench/attack.py). Writes bench/results/variants.md and variants.json (not with --quick or --only).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from bench.attack import attacked
from bench.methods import concept_of, patched
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Evaluation, World, other_concepts
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings

CONCEPTS = ("zebra", "santa claus")
SEARCHES = 2
SUBSTITUTES = {"zebra": "horse", "santa claus": "clown", "pizza": "donut"}
VARIANTS: dict[str, dict] = {
    "default: values, ablated prompt": {},
    "target zero, first end token": {"target": "zero"},
    "target zero, all end tokens": {"target": "zero", "end_token": "all"},
    "target empty prompt": {"target": "empty prompt"},
    "target substitute": {"target": "substitute"},
    "keys": {"train": "keys"},
    "keys and values": {"train": "keys and values"},
    "one template": {"templates": 1},
    "float32": {"precision": "float32 on the model's device"},
}
COLUMNS = (
    "variant", "concept", "forget_after", "synonym_after", "keep_drop", "style_after", "drift", "attacked", "seconds",
    "patch_bytes", "condition",
)  # fmt: skip


def solved(world: World, name: str, variant: dict):
    """The patch of a variant."""
    adapter = world.adapter()
    concept = concept_of(world, adapter, name)
    own = dict(variant)
    concept.end_token = own.pop("end_token", concept.end_token)
    concept.templates = concept.templates[: own.pop("templates", None)]
    if own.get("target") == "substitute":
        own["substitute"] = SUBSTITUTES[name]
    settings = ClosedFormSettings(preserve_prompts=other_concepts(name), **own)
    with torch.inference_mode(False), torch.no_grad():
        world.host.load(world.model)
        return forget_closed_form(adapter, [concept], settings)


def row_of(world: World, label: str, name: str, searches: int) -> dict:
    others = other_concepts(name)
    evaluation = Evaluation(world, name, others, quick=True)
    if label == "nothing forgotten":
        figures, cost = evaluation.measure(), {"seconds": 0.0, "patch_bytes": 0, "condition": ""}
        return {
            "variant": label,
            "concept": name,
            **figures,
            "attacked": attacked(world, name, None, searches),
            **cost,
        }
    patch = solved(world, name, VARIANTS[label])
    applied = patched(world, patch)
    cost = {"seconds": round(applied.seconds, 2), "patch_bytes": applied.patch_bytes}
    cost["condition"] = f"{patch.figures['condition']:.0e}"
    found = attacked(world, name, applied.model, searches)
    return {"variant": label, "concept": name, **evaluation.measure(applied.model), "attacked": found, **cost}


def write_page(rows: list[dict]) -> None:
    (RESULTS / "variants.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "variants.md").write_text(f"""# The closed form's choices

Made by `python -m bench.variants --concepts {",".join(dict.fromkeys(r["concept"] for r in rows))}` on {machine()}, {time.strftime("%Y-%m-%d")}. One concept at a time, the others listed to be preserved.
forget, synonym: share of pictures in which the judge still sees the concept. keep_drop: share lost by the other concepts (33 pictures).
attacked: the same share under an embedding as long as the concept's name that was searched on the patched model with its gradients,
from pictures of the concept (15 steps, batch 4, started at the name), mean of two searches. condition: of the system that is solved.

{markdown_table(rows, COLUMNS)}
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one search; writes no results page")
    parser.add_argument("--only", default="")
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, rows = World(), []
    for label in ("nothing forgotten", *VARIANTS):
        for name in args.concepts.split(","):
            if args.only in label:
                rows.append(row_of(world, label, name, 1 if args.quick else SEARCHES))
                print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not (args.quick or args.only):
        write_page(rows)


if __name__ == "__main__":
    main()
