"""Seconds, memory and effect of every way to forget, side by side: python -m bench.speed [--quick] [--models a,b] [--dtype fp32|fp16|bf16] [--json FILE]

Rows: method, model, device, dtype, concepts, seconds, peak_mb, forget_after, keep_drop, patch_bytes, note. One process, the same model,
prompts and seeds, repeats in turn (their medians count). Full-size models have random weights: their times and memory only. Writes bench/results/speed.md, speed.json and speed.png (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bench.results_page import RESULTS, machine, markdown_table
from bench.speed_growth import PAIRS, growth, import_seconds, plot_growth, sampling_ratio
from bench.speed_methods import Method, by_gradient, closed_form, inference, published, train_lora_node
from bench.speed_models import MINIATURE, SHAPES, device_of, dtype_of, model_of
from bench.world import Evaluation, Pack, World, other_concepts
from mini_sd.concepts import CONCEPT_NAMES

COLUMNS = (
    "method", "model", "device", "dtype", "concepts", "seconds", "peak_mb", "forget_after", "keep_drop", "patch_bytes", "note",
)  # fmt: skip
WARM_CLIP = "closed form, a second concept on the same CLIP"
CLOSED_FORM, PUBLISHED = "closed form", "published loop, 35 x 2e-6"
# The published loop's best single rate on the miniature, found by bench.forget; its users search for theirs.
EQUAL_RATE = 6e-5
TEN = CONCEPT_NAMES[:10]
QUICK_STEPS = 8  # of sampling what is looked at; of a third of the other concepts


def names_of(count: int) -> list[str]:
    """Concepts of the miniature; beyond them, words that any vocabulary tells apart."""
    names = ["zebra"] if count == 1 else list(TEN) if count == 10 else [*CONCEPT_NAMES]
    return [*names, *(f"{a} {b}" for a in ("old", "tiny", "golden") for b in CONCEPT_NAMES)][:count]


def miniature_methods(quick: bool) -> list[tuple[str, Method, int, int]]:
    """Method, what runs it, concepts, repeats."""
    repeats = 3
    rows = [
        ("one sampling step with guidance", inference, 1, repeats),
        (CLOSED_FORM, closed_form(), 1, repeats),
        (WARM_CLIP, closed_form(warm=True), 1, repeats),
        ("closed form, the other concepts listed", closed_form(listed=True), 1, repeats),
        ("closed form, float32", closed_form(precision="float32 on the model's device"), 1, repeats),
        ("re-steering", by_gradient(), 1, 1 if quick else repeats),
        ("re-steering, checkpointing", by_gradient(checkpointing=True), 1, 1),
        (PUBLISHED, published(), 1, 1 if quick else repeats),
        (f"published loop, 35 x {EQUAL_RATE:g}", published(learning_rate=EQUAL_RATE), 1, 1),
        ("closed form, the other concepts listed", closed_form(listed=True), 10, 1),
    ]
    if not quick:
        rows += [
            ("TrainLoraNode, 100 steps", train_lora_node(100, 100), 1, 1),
            (CLOSED_FORM, closed_form(), 10, 1),
            (CLOSED_FORM, closed_form(), 100, 1),
            (PUBLISHED, published(), 10, 1),
        ]
        rows += [("re-steering", by_gradient(), 10, 1)]
    return rows


def shape_methods(quick: bool, model: str) -> list[tuple[str, Method, int, int]]:
    """On a CPU, trainings of SD 1.5 alone: the others take hours, or more memory than there is."""
    rows = [
        ("one sampling step with guidance", inference, 1, 1),
        (CLOSED_FORM, closed_form(), 1, 1 if quick or model != "SD 1.5" else 3),
    ]
    if model == "SD 1.5" or torch.cuda.is_available():
        rows += [(WARM_CLIP, closed_form(warm=True), 1, 1), (PUBLISHED, published(steps=2), 1, 1)]
        if not quick:
            rows += [
                ("re-steering", by_gradient(steps=2), 1, 1),
                ("re-steering, checkpointing", by_gradient(steps=2, checkpointing=True), 1, 1),
                ("TrainLoraNode, 100 steps", train_lora_node(2, 100), 1, 1),
                (CLOSED_FORM, closed_form(), 10, 1),
            ]
    return rows


def looked_at(world: World, names: list[str], model: Any, quick: bool) -> dict[str, float]:
    """Mean over the concepts of what the judge still sees, and what the others lose."""
    others = [n for n in other_concepts(names[0]) if n not in names][:: 3 if quick else 1]
    found = []
    for number, name in enumerate(names):
        evaluation = Evaluation(
            world, name, others if number == 0 else [], quick or len(names) > 1, per_other=1 if quick else 2
        )
        found.append(evaluation.measure(model))
    forgotten = sum(f["forget_after"] for f in found) / len(found)
    return {"forget_after": round(forgotten, 4), "keep_drop": found[0]["keep_drop"]}


def wanted(name: str, count: int, quick: bool) -> bool:
    """Whether a method's pictures are looked at; in a quick run, only of those whose patches differ in more than rounding."""
    alike = ("one sampling step", "second concept", "float32", "checkpointing")
    return count <= (1 if quick else 10) and not (quick and any(text in name for text in alike))


def rows_of(subject: Pack, model: str, methods: list[tuple[str, Method, int, int]], quick: bool) -> list[dict]:
    """Every method once a round, until each has had its repeats; the first run of each is looked at."""
    runs: dict[tuple[str, int], list] = {}
    figures: dict[tuple[str, int], dict] = {}
    for repeat in range(max(r for *_, r in methods)):
        for name, method, count, repeats in methods:
            if repeat >= repeats:
                continue
            with method(subject, names_of(count)) as run:
                runs.setdefault((name, count), []).append(run)
                if repeat == 0 and isinstance(subject, World) and run.model is not None and wanted(name, count, quick):
                    figures[name, count] = looked_at(subject, names_of(count), run.model, quick)
                run.model = None
            print(
                f"{model}, {name}, {count}: {run.cost.seconds:.2f} s, {run.cost.peak_mb:.0f} MB {run.note}", flush=True
            )
    where = {"model": model, "device": device_of(subject), "dtype": dtype_of(subject)}
    return [
        {
            "method": name, **where, "concepts": count, "seconds": round(statistics.median(r.cost.seconds for r in of), 3),
            "peak_mb": round(max(r.cost.peak_mb for r in of)), "forget_after": None, "keep_drop": None, **figures.get((name, count), {}),
            "patch_bytes": of[0].patch_bytes, "note": of[0].note,
        }
        for (name, count), of in runs.items()
    ]  # fmt: skip


def ratios(rows: list[dict]) -> list[str]:
    """How often the published loop's time holds the closed form's, per model, from this run."""
    found = []
    for model in dict.fromkeys(r["model"] for r in rows):
        seconds = {r["method"]: r["seconds"] for r in rows if r["model"] == model and r["concepts"] == 1}
        if PUBLISHED in seconds:
            for name, value in seconds.items():
                if name.startswith("closed form"):
                    found.append(
                        f"{model}: {name}: {seconds[PUBLISHED] / value:.1f} times as fast as the published loop"
                    )
    return found


def write_page(found: dict[str, Any]) -> None:
    rows = [{k: "" if v is None else v for k, v in r.items()} for r in found["rows"]]
    (RESULTS / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = "\n".join(f"- {line}" for line in ratios(found["rows"]) + found["notes"])
    (RESULTS / "speed.md").write_text(f"""# Seconds, megabytes, kilobytes

Made by `python -m bench.speed` on {found["machine"]}, {time.strftime("%Y-%m-%d")}. One process a model; repeats of the methods in turn, medians.
seconds: everything after the model is loaded. peak_mb: the most memory in use meanwhile, the model included (resident memory on a CPU,
CUDA memory on a GPU), the largest of the repeats, and on a CPU with what earlier methods left. forget_after, keep_drop: as in `python -m bench.forget`, on the miniature. Full-size models have random weights:
times and memory only. patch_bytes: the file; of the published loop a whole UNet in fp16. On a
CPU only SD 1.5 is trained: on SDXL the published loop's parameters, gradients and two moments of AdamW in fp32 are 41 GB.

{markdown_table(rows, COLUMNS)}

{lines}

![growth of time and memory](speed.png)
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the miniature and SD 1.5, at most 5 minutes; writes no results page"
    )
    parser.add_argument("--models", help=f"of {MINIATURE}, {', '.join(SHAPES)}, joined by commas")
    parser.add_argument(
        "--dtype", choices=("auto", "fp32", "fp16", "bf16"), default="auto", help="of the UNet's weights"
    )
    parser.add_argument("--merge", type=Path, nargs="+", help="JSON files of runs with --models, in place of measuring")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = merged(args.merge) if args.merge else measured_models(args)
    print(markdown_table([{k: "" if v is None else v for k, v in r.items()} for r in found["rows"]], COLUMNS))
    print("\n".join(ratios(found["rows"]) + found["notes"]))
    if args.merge or not (args.quick or args.models):
        plot_growth(found["growth"], RESULTS / "speed.png")
        write_page(found)


def merged(files: list[Path]) -> dict[str, Any]:
    """One result of runs with some of the models each; rows of another machine than the first file's say so."""
    parts = [json.loads(f.read_text()) for f in files]
    for part in parts:
        if part["machine"] != parts[0]["machine"]:
            for row in part["rows"]:
                row["note"] = ", ".join(filter(None, (row["note"], f"on {part['machine']}")))
    growth = next((p["growth"] for p in parts if p["growth"]), {})
    every = {key: [item for p in parts for item in p[key]] for key in ("rows", "notes")}
    return {**parts[0], **every, "growth": growth}


def measured_models(args: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for, model by model; what is measured is in the JSON file already when a later model fails."""
    chosen = args.models.split(",") if args.models else [MINIATURE, *(SHAPES[:1] if args.quick else SHAPES)]
    found: dict[str, Any] = {"machine": machine(), "rows": [], "notes": [], "growth": {}}
    for model in chosen:
        with model_of(model, args.dtype) as subject:
            if args.quick and isinstance(subject, World):
                subject.steps = QUICK_STEPS
            methods = miniature_methods(args.quick) if model == MINIATURE else shape_methods(args.quick, model)
            found["rows"] += rows_of(subject, model, methods, args.quick)
            if model == MINIATURE:
                found["notes"] += [sampling_ratio(subject, 4 if args.quick else PAIRS), import_seconds()]
                found["growth"] = {} if args.quick else growth(subject)
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
