"""Merged, gated and weakened patches on the miniature: python -m bench.patches [--quick] [--json FILE]

Rows: case, patches, forget_after, keep_drop, drift, seconds, bytes. Cases: "fusion", "sum" and, behind a gate, "side by
side" of 1, 2, 5, 10 and 100 patches that were solved one by one; "joint", one solve for all their concepts; "alone",
every concept under its own patch; "gate on" and "gate off", a gated patch on prompts of its concept and on others;
"strength X". forget_after: mean over the concepts. keep_drop, drift: of the concepts that are not forgotten. Writes
bench/results/patches.md and patches.png (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.losses_and_masks import TEN_CONCEPTS
from bench.methods import closed_form, concept_of, gated_sampler
from bench.picture_pages import grid_page
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Evaluation, World, other_concepts
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.compose.fusion import fuse_patches
from fmn_core.compose.merge import sum_patches
from fmn_core.compose.side_by_side import side_by_side
from fmn_core.patch.file import save_patch
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES

COLUMNS = ("case", "patches", "forget_after", "keep_drop", "drift", "seconds", "bytes")
COUNTS = (1, 2, 5, 10, 100)
# 100 phrases: 30 concepts, their synonyms and variations of their names. Ten of the concepts are judged, four are kept.
FORGOTTEN = CONCEPT_NAMES[:30]
HUNDRED = tuple(
    dict.fromkeys(
        (
            *FORGOTTEN,
            *(BY_NAME[n].synonyms[0] for n in FORGOTTEN),
            *(f"{a} {n}" for a in ("small", "old") for n in FORGOTTEN),
        )
    )
)[:100]
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
PICTURED_CASES = ("joint", "fusion", "sum")
MERGE_CASES = ("alone", *PICTURED_CASES, "side by side")
KEEPING_FIGURES = ("keep_drop", "drift")


def single_patch(world: World, name: str, kept: list[str]) -> Any:
    """The patch of one phrase, as its file holds it."""
    adapter = world.adapter()
    settings = ClosedFormSettings(preserve_prompts=kept)
    with torch.inference_mode(False):
        return forget_closed_form(adapter, [concept_of(world, adapter, name)], settings).as_stored()


def forgotten_names(count: int) -> tuple[str, ...]:
    """The phrases that `count` patches forget."""
    return HUNDRED if count == len(HUNDRED) else TEN_CONCEPTS[:count]


def judged_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The concepts whose pictures are judged."""
    return FORGOTTEN[::3] if names == HUNDRED else names


def kept_names(names: tuple[str, ...]) -> list[str]:
    """The concepts of the miniature that are not forgotten."""
    return [n for n in CONCEPT_NAMES if n not in names]


def stored_bytes(patch: Any) -> int:
    """Size of a patch's file."""
    with tempfile.TemporaryDirectory() as folder:
        return save_patch(patch, Path(folder) / "patch.safetensors")


def merge_patches(world: World, patches: list[Any], case: str) -> tuple[Any, float]:
    """The merged patch and the seconds of merging, which starts with an empty encoding cache as in the node."""
    references = world.node("adapter.references")
    references.shared_cache().clear()
    text = references.with_cache(world.node("adapter.text").ComfyText(world.clip))
    started = time.perf_counter()
    with torch.inference_mode(False):
        if len(patches) == 1:
            merged = patches[0]
        else:
            functions = {"sum": sum_patches, "side by side": side_by_side}
            merged = fuse_patches(text, patches) if case == "fusion" else functions[case](patches)
    return merged.as_stored(), time.perf_counter() - started


def concept_figures(
    world: World, names: tuple[str, ...], model: Any, sampler: Callable | None, quick: bool
) -> tuple[dict, Any]:
    """Mean forget_after of the concepts, keep_drop and drift of the others, and a picture of every concept."""
    kept, per_other = kept_names(names), 8 if names == HUNDRED else 2
    figures, pictures = [], []
    for number, name in enumerate(judged_names(names)):
        evaluation = Evaluation(
            world, name, kept if number == 0 else [], quick or len(names) > 2, per_other=1 if quick else per_other
        )
        figures.append(evaluation.measure(model, sampler))
        pictures.append(evaluation.first_picture)
    return {"forget_after": mean_of(figures, "forget_after"), **{k: figures[0][k] for k in KEEPING_FIGURES}}, pictures


def mean_of(figures: list[dict], key: str) -> float:
    """Mean of one figure."""
    return round(sum(f[key] for f in figures) / len(figures), 4)


def alone_row(world: World, count: int, single: dict[str, Any]) -> dict:
    """The row "alone": means over the concepts, each measured under its own patch."""
    names, figures = forgotten_names(count), []
    for name in judged_names(names):
        model, _ = world.host.apply_patch(world.model, single[name], 1.0)
        figures.append(Evaluation(world, name, kept_names(names), True).measure(model))
    size = sum(stored_bytes(single[name]) for name in names)
    means = {key: mean_of(figures, key) for key in ("forget_after", *KEEPING_FIGURES)}
    return {"case": "alone", "patches": count, **means, "seconds": 0.0, "bytes": size}


def joint_row(world: World, count: int, quick: bool) -> tuple[dict, Any]:
    """The row "joint", one solve for all concepts, and its pictures."""
    names = forgotten_names(count)
    with closed_form(lambda name: kept_names(names))(world, *names) as applied:
        figures, pictures = concept_figures(world, names, applied.model, None, quick)
    cost = {"seconds": round(applied.seconds, 2), "bytes": applied.patch_bytes}
    return {"case": "joint", "patches": count, **figures, **cost}, pictures


def merge_row(world: World, case: str, count: int, single: dict[str, Any], quick: bool) -> tuple[dict, Any]:
    """The row of merged patches, and its pictures."""
    names = forgotten_names(count)
    patch, seconds = merge_patches(world, [single[n] for n in names], case)
    sampler = gated_sampler(world, patch) if case == "side by side" else None
    model = None if sampler else world.host.apply_patch(world.model, patch, 1.0)[0]
    figures, pictures = concept_figures(world, names, model, sampler, quick)
    cost = {"seconds": round(seconds, 2), "bytes": stored_bytes(patch)}
    return {"case": case, "patches": count, **figures, **cost}, pictures


def merge_rows(
    world: World, counts: Sequence[int], quick: bool, cases: Sequence[str] = MERGE_CASES
) -> tuple[list[dict], dict]:
    """Rows of every case and number of patches, and pictures.

    Notes
    -----
    Up to ten patches preserve each other's concepts, because the maker of a patch does not know the other patches.
    """
    few = TEN_CONCEPTS if min(counts) <= len(TEN_CONCEPTS) else ()
    rows, pictures_by_case = [], {}
    single = {name: single_patch(world, name, other_concepts(name)) for name in few}
    for count in counts:
        if count == len(HUNDRED):
            single = {name: single_patch(world, name, kept_names(HUNDRED)) for name in HUNDRED}
        if count > 2 and "alone" in cases:
            rows.append(alone_row(world, count, single))
        for case in cases:
            if case == "alone" or (case == "side by side" and count == 1):
                continue
            row, pictures = (
                joint_row(world, count, quick) if case == "joint" else merge_row(world, case, count, single, quick)
            )
            rows.append(row)
            if count <= len(TEN_CONCEPTS) and case in PICTURED_CASES:
                pictures_by_case[case, count] = pictures
            print(json.dumps(row), flush=True)
    return rows, pictures_by_case


def gate_rows(world: World, quick: bool) -> list[dict]:
    """Rows of one concept's gated patch: "gate on" for prompts of the concept, "gate off" for all others."""
    name = TEN_CONCEPTS[0]
    patch = single_patch(world, name, other_concepts(name))
    started = time.perf_counter()
    figures, _ = concept_figures(world, (name,), None, gated_sampler(world, patch), quick)
    seconds = round(time.perf_counter() - started, 1)
    size = stored_bytes(patch)
    on = {"case": "gate on", "patches": 1, "forget_after": figures["forget_after"], "keep_drop": "", "drift": ""}
    off = {
        "case": "gate off",
        "patches": 1,
        "forget_after": "",
        "keep_drop": figures["keep_drop"],
        "drift": figures["drift"],
    }
    return [{**on, "seconds": seconds, "bytes": size}, {**off, "seconds": seconds, "bytes": size}]


def strength_rows(world: World, quick: bool) -> list[dict]:
    """Rows of one concept's patch at different strengths."""
    name, rows = TEN_CONCEPTS[0], []
    patch = single_patch(world, name, other_concepts(name))
    size = stored_bytes(patch)
    for strength in STRENGTHS:
        model, _ = world.host.apply_patch(world.model, patch, strength)
        figures, _ = concept_figures(world, (name,), model, None, quick)
        rows.append({"case": f"strength {strength:g}", "patches": 1, **figures, "seconds": 0.0, "bytes": size})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def in_order(rows: Iterable[dict]) -> list[dict]:
    """Rows sorted by the number of patches; those of gate and strengths come last."""

    def key(row: dict) -> tuple[int, int, int]:
        return (0, row["patches"], MERGE_CASES.index(row["case"])) if row["case"] in MERGE_CASES else (1, 0, 0)

    return sorted(rows, key=key)


def write_results(rows: list[dict], pictures: dict) -> None:
    """Writes the results page and its pictures."""
    text = f"""# Merged, gated and weakened patches on the miniature

Made by `python -m bench.patches` on {machine()}, {time.strftime("%Y-%m-%d")}. Patches of single concepts in closed form, with the other
concepts preserved; unseen seeds and templates, Euler, 12 steps, guidance 3. joint: one solve for all the concepts at once, what fusion is to reach
from the files alone; alone: every concept under its own patch, means. 100: phrases, 30 concepts with their synonyms and variations of
their names, of which ten concepts are looked at and four kept. side by side: through Gated Forget Patch, each prompt with the patches that it is near.
seconds: of merging or solving; of sampling for the gate.

{markdown_table(rows, COLUMNS)}

![ten concepts: one solve, fusion, sum](patches.png)
"""
    (RESULTS / "patches.md").write_text(text)
    if not pictures:
        return
    count = max(k for _, k in pictures)
    images = torch.cat([torch.cat(pictures[case, count]) for case in PICTURED_CASES])
    grid_page(images, list(PICTURED_CASES), list(TEN_CONCEPTS[:count]), cell=96).save(RESULTS / "patches.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer pictures, one and two patches; writes no results page"
    )
    parser.add_argument("--counts", help="numbers of patches, without gate and strengths; writes no results page")
    parser.add_argument("--case", choices=MERGE_CASES, help="with --counts: this case alone")
    parser.add_argument(
        "--merge", type=Path, nargs="+", help="JSON files of such runs, the whole one first, in place of measuring"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pictures: dict = {}
    if args.merge:
        parts = [json.loads(f.read_text())["rows"] for f in args.merge]
        rows = in_order({(r["case"], r["patches"]): r for part in parts for r in part}.values())
    else:
        world = World()
        counts = [int(c) for c in args.counts.split(",")] if args.counts else COUNTS[:2] if args.quick else COUNTS
        rows, pictures = merge_rows(world, counts, args.quick, (args.case,) if args.case else MERGE_CASES)
        rows += [] if args.counts else gate_rows(world, args.quick) + strength_rows(world, args.quick)
    print(markdown_table(rows, COLUMNS))
    result = {"rows": rows, "machine": machine()}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    if not (args.quick or args.counts):
        (RESULTS / "patches.json").write_text(json.dumps(result, indent=2) + "\n")
        write_results(rows, pictures)


if __name__ == "__main__":
    main()
