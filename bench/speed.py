"""Seconds, memory and effect of every way to forget, side by side: python -m bench.speed [--quick] [--models a,b] [--dtype fp32|fp16|bf16] [--json FILE]

Rows: method, model, device, dtype, concepts, seconds, peak_mb, forget_after, keep_drop, patch_bytes, note. All methods
run in one process, with the same model, prompts and seeds; their repeats take turns, and medians count. Full-size
models have random weights, for times and memory only. Writes bench/results/speed.md, speed.json and speed.png (not with
--quick).
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
from bench.speed_growth import SAMPLING_PAIRS, growth, import_seconds, plot_growth, sampling_ratio
from bench.speed_methods import TimedMethod, by_gradient, closed_form, inference, published, train_lora_node
from bench.speed_models import MINIATURE, SHAPES, device_of, dtype_of, model_of
from bench.world import Evaluation, Pack, World, other_concepts
from mini_sd.concepts import CONCEPT_NAMES

COLUMNS = (
    "method", "model", "device", "dtype", "concepts", "seconds", "peak_mb", "forget_after", "keep_drop", "patch_bytes", "note",
)  # fmt: skip
WARM_CLIP = "closed form, a second concept on the same CLIP"
CLOSED_FORM, PUBLISHED_LOOP = "closed form", "published loop, 35 x 2e-6"
# The published loop's best single rate on the miniature, from bench.forget; its users tune the rate.
TUNED_RATE = 6e-5
QUICK_SAMPLING_STEPS = 8


def concept_names(count: int) -> list[str]:
    """`count` concepts of the miniature, and where it has fewer, variations of their names."""
    names = ["zebra"] if count == 1 else [*CONCEPT_NAMES]
    return [*names, *(f"{a} {b}" for a in ("old", "tiny", "golden") for b in CONCEPT_NAMES)][:count]


def miniature_methods(quick: bool) -> list[tuple[str, TimedMethod, int, int]]:
    """Methods on the miniature: name, method, number of concepts, repeats."""
    repeats = 3
    rows = [
        ("one sampling step with guidance", inference, 1, repeats),
        (CLOSED_FORM, closed_form(), 1, repeats),
        (WARM_CLIP, closed_form(warm=True), 1, repeats),
        ("closed form, the other concepts listed", closed_form(listed=True), 1, repeats),
        ("closed form, float32", closed_form(precision="float32 on the model's device"), 1, repeats),
        ("re-steering", by_gradient(), 1, 1 if quick else repeats),
        ("re-steering, checkpointing", by_gradient(checkpointing=True), 1, 1),
        (PUBLISHED_LOOP, published(), 1, 1 if quick else repeats),
        (f"published loop, 35 x {TUNED_RATE:g}", published(learning_rate=TUNED_RATE), 1, 1),
        ("closed form, the other concepts listed", closed_form(listed=True), 10, 1),
    ]
    if not quick:
        rows += [
            ("TrainLoraNode, 100 steps", train_lora_node(100, 100), 1, 1),
            (CLOSED_FORM, closed_form(), 10, 1),
            (CLOSED_FORM, closed_form(), 100, 1),
            (PUBLISHED_LOOP, published(), 10, 1),
        ]
        rows += [("re-steering", by_gradient(), 10, 1)]
    return rows


def shape_methods(quick: bool, model: str) -> list[tuple[str, TimedMethod, int, int]]:
    """Methods on full-size models: name, method, number of concepts, repeats.

    Notes
    -----
    On a CPU only SD 1.5 is trained, because the others take hours, or more memory than the machine has.
    """
    rows = [
        ("one sampling step with guidance", inference, 1, 1),
        (CLOSED_FORM, closed_form(), 1, 1 if quick or model != "SD 1.5" else 3),
    ]
    if model == "SD 1.5" or torch.cuda.is_available():
        rows += [(WARM_CLIP, closed_form(warm=True), 1, 1), (PUBLISHED_LOOP, published(steps=2), 1, 1)]
        if not quick:
            rows += [
                ("re-steering", by_gradient(steps=2), 1, 1),
                ("re-steering, checkpointing", by_gradient(steps=2, checkpointing=True), 1, 1),
                ("TrainLoraNode, 100 steps", train_lora_node(2, 100), 1, 1),
                (CLOSED_FORM, closed_form(), 10, 1),
            ]
    return rows


def judged_figures(world: World, names: list[str], model: Any, quick: bool) -> dict[str, float]:
    """Mean forget_after of the concepts, and keep_drop of the others."""
    others = [n for n in other_concepts(names[0]) if n not in names][:: 3 if quick else 1]
    figures = []
    for number, name in enumerate(names):
        evaluation = Evaluation(
            world, name, others if number == 0 else [], quick or len(names) > 1, per_other=1 if quick else 2
        )
        figures.append(evaluation.measure(model))
    forget_after = sum(f["forget_after"] for f in figures) / len(figures)
    return {"forget_after": round(forget_after, 4), "keep_drop": figures[0]["keep_drop"]}


def is_judged(name: str, count: int, quick: bool) -> bool:
    """Whether a method's pictures are judged; a quick run leaves out patches that equal another but for rounding."""
    same_patch = ("one sampling step", "second concept", "float32", "checkpointing")
    return count <= (1 if quick else 10) and not (quick and any(text in name for text in same_patch))


def rows_of(subject: Pack, model: str, methods: list[tuple[str, TimedMethod, int, int]], quick: bool) -> list[dict]:
    """Rows of all methods, which run once a round until each has had its repeats; the first run of each is judged."""
    runs: dict[tuple[str, int], list] = {}
    figures: dict[tuple[str, int], dict] = {}
    for repeat in range(max(r for *_, r in methods)):
        for name, method, count, repeats in methods:
            if repeat >= repeats:
                continue
            with method(subject, concept_names(count)) as run:
                runs.setdefault((name, count), []).append(run)
                if (
                    repeat == 0
                    and isinstance(subject, World)
                    and run.model is not None
                    and is_judged(name, count, quick)
                ):
                    figures[name, count] = judged_figures(subject, concept_names(count), run.model, quick)
                run.model = None
            print(
                f"{model}, {name}, {count}: {run.cost.seconds:.2f} s, {run.cost.peak_mb:.0f} MB {run.note}", flush=True
            )
    setting = {"model": model, "device": device_of(subject), "dtype": dtype_of(subject)}
    return [
        {
            "method": name, **setting, "concepts": count, "seconds": round(statistics.median(r.cost.seconds for r in repeated), 3),
            "peak_mb": round(max(r.cost.peak_mb for r in repeated)), "forget_after": None, "keep_drop": None, **figures.get((name, count), {}),
            "patch_bytes": repeated[0].patch_bytes, "note": repeated[0].note,
        }
        for (name, count), repeated in runs.items()
    ]  # fmt: skip


def ratios(rows: list[dict]) -> list[str]:
    """Lines on how many times as fast as the published loop the closed form is, for each model."""
    lines = []
    for model in dict.fromkeys(r["model"] for r in rows):
        seconds = {r["method"]: r["seconds"] for r in rows if r["model"] == model and r["concepts"] == 1}
        if PUBLISHED_LOOP in seconds:
            for name, value in seconds.items():
                if name.startswith("closed form"):
                    lines.append(
                        f"{model}: {name}: {seconds[PUBLISHED_LOOP] / value:.1f} times as fast as the published loop"
                    )
    return lines


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table, with empty cells for None."""
    return markdown_table([{k: "" if v is None else v for k, v in row.items()} for row in rows], COLUMNS)


def write_page(result: dict[str, Any]) -> None:
    """Writes the results page and its figures."""
    (RESULTS / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = "\n".join(f"- {line}" for line in ratios(result["rows"]) + result["notes"])
    (RESULTS / "speed.md").write_text(f"""# Seconds, megabytes, kilobytes

Made by `python -m bench.speed` on {result["machine"]}, {time.strftime("%Y-%m-%d")}. One process a model; repeats of the methods in turn, medians.
seconds: everything after the model is loaded. peak_mb: the most memory in use meanwhile, the model included (resident memory on a CPU,
CUDA memory on a GPU), the largest of the repeats, and on a CPU with what earlier methods left. forget_after, keep_drop: as in `python -m bench.forget`, on the miniature. Full-size models have random weights:
times and memory only. patch_bytes: the file; of the published loop a whole UNet in fp16. On a
CPU only SD 1.5 is trained: on SDXL the published loop's parameters, gradients and two moments of AdamW in fp32 are 41 GB.

{table(result["rows"])}

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
    result = merge_runs(args.merge) if args.merge else measure_models(args)
    print(table(result["rows"]))
    print("\n".join(ratios(result["rows"]) + result["notes"]))
    if args.merge or not (args.quick or args.models):
        plot_growth(result["growth"], RESULTS / "speed.png")
        write_page(result)


def merge_runs(files: list[Path]) -> dict[str, Any]:
    """Result of runs with some of the models each; a note marks rows of another machine than the first."""
    parts = [json.loads(f.read_text()) for f in files]
    for part in parts:
        if part["machine"] != parts[0]["machine"]:
            for row in part["rows"]:
                row["note"] = ", ".join(filter(None, (row["note"], f"on {part['machine']}")))
    growth = next((p["growth"] for p in parts if p["growth"]), {})
    lists = {key: [item for p in parts for item in p[key]] for key in ("rows", "notes")}
    return {**parts[0], **lists, "growth": growth}


def measure_models(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the chosen models one by one, and writes the JSON file after each."""
    models = args.models.split(",") if args.models else [MINIATURE, *(SHAPES[:1] if args.quick else SHAPES)]
    result: dict[str, Any] = {"machine": machine(), "rows": [], "notes": [], "growth": {}}
    for model in models:
        with model_of(model, args.dtype) as subject:
            if args.quick and isinstance(subject, World):
                subject.steps = QUICK_SAMPLING_STEPS
            methods = miniature_methods(args.quick) if model == MINIATURE else shape_methods(args.quick, model)
            result["rows"] += rows_of(subject, model, methods, args.quick)
            if model == MINIATURE:
                result["notes"] += [sampling_ratio(subject, 4 if args.quick else SAMPLING_PAIRS), import_seconds()]
                result["growth"] = {} if args.quick else growth(subject)
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
