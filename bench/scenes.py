"""Forgetting in scenes of two things: python -m bench.scenes [--quick] [--model flux|unet] [--concepts A,B,...] [--json FILE]

Rows: model, method, concepts, seen_before, seen_after, alone_after, other_before, other_after, place, colour, style, empty,
kept_before, kept_after, drift, seconds, patch_bytes. seen: share of scenes of two in which the judge sees the forgotten
thing; other: the thing beside it; place, colour, style: after, the other thing where it should stand, ground, style; empty:
nothing stands where the forgotten thing was; kept: scenes of two other things. Forms of captions are not trained on and in no
template. ESD and Concept Ablation have the settings that were tuned for the UNet. --quick: three concepts, three methods, fewer pictures. Without --quick and --concepts: writes bench/results/scenes_<model>.md and
.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from bench.concept_bench.concepts import MINIATURE, MINIATURE_FLUX
from bench.concept_bench.method_registry import methods_of
from bench.picture_pages import grid_page
from bench.results_page import RESULTS, machine, markdown_table
from bench.scene_world import SceneWorld, asks_of, figures_of
from mini_sd.concepts import CONCEPT_NAMES, drawn_styles

SINGLE = ("cat", "guitar", "rocket", "banana", "wizard", "robot")
FIVE = ("cat", "tiger", "penguin", "car", "guitar")
TEN = ("cat", "tiger", "penguin", "owl", "elephant", "car", "banana", "rocket", "sunflower", "guitar")
COLUMNS = (
    "model", "method", "concepts", "seen_before", "seen_after", "alone_after", "other_before", "other_after", "place", "colour", "style",
    "empty", "kept_before", "kept_after", "drift", "seconds", "patch_bytes",
)  # fmt: skip
SHOWN = 8
# Methods of --quick.
QUICK = ("closed form", "closed form, listed", "UCE")
METHODS = {
    MINIATURE_FLUX: (*QUICK, "ESD", "Concept Ablation"),
    MINIATURE: (*QUICK, "ESD-x", "Concept Ablation"),
}


def row_of(
    world: SceneWorld, model: str, method: str, names: tuple[str, ...], count: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """Figures of a method, and some pictures before, then after."""
    others = [name for name in CONCEPT_NAMES if name not in names and len(drawn_styles(name)) == 4]
    asks = asks_of(list(names), others, count, seed=len(names))
    before, few = figures_of(world, asks), asks[0].first(SHOWN)
    with methods_of(model)[method](world, *names) as applied:
        after = figures_of(world, asks, applied.model)
        pictures = torch.cat([world.pictures(few), world.pictures(few, applied.model)])
    row = {
        "model": model, "method": method, "concepts": ", ".join(names), "seen_before": before["seen"], "seen_after": after["seen"],
        "alone_after": after["seen_alone"], "other_before": before["other"], "other_after": after["other"],
        "place": after["place"] - before["place"], "colour": after["colour"] - before["colour"], "style": after["style"] - before["style"],
        "empty": after["empty"], "kept_before": before["kept"], "kept_after": after["kept"], "drift": after["drift"],
        "seconds": round(applied.seconds, 2), "patch_bytes": applied.patch_bytes,
    }  # fmt: skip
    return row, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", choices=("flux", "unet"), default="flux")
    parser.add_argument("--concepts", help="concepts that are forgotten at once, separated by commas")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = MINIATURE_FLUX if args.model == "flux" else MINIATURE
    world, rows, shown = SceneWorld(args.model), [], []
    cases = [tuple(args.concepts.split(","))] if args.concepts else [(name,) for name in SINGLE] + [FIVE, TEN]
    for names in cases[:2] + cases[-1:] if args.quick else cases:
        for method in QUICK if args.quick else METHODS[model]:
            row, pictures = row_of(world, model, method, names, 24 if args.quick else 64)
            rows.append(row)
            print(json.dumps(row), flush=True)
            if method == "closed form":
                shown.append((names, pictures))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not (args.quick or args.concepts):
        write_results(args.model, rows, shown)


def write_results(model: str, rows: list[dict], shown: list[tuple[tuple[str, ...], torch.Tensor]]) -> None:
    """Writes the results page and its pictures: for each case a row before and a row after."""
    text = f"""# Forgetting in scenes, miniature {model}

Made by `python -m bench.scenes --model {model}` on {machine()}, {time.strftime("%Y-%m-%d")}. Scenes of a forgotten thing beside another
one, and of two others, 64 of each a row; forms of captions that are in no template. place, colour, style: change of the share.

{markdown_table(rows, COLUMNS)}

![before and after](scenes_{model}.png)
"""
    (RESULTS / f"scenes_{model}.md").write_text(text)
    labels = [f"{'+'.join(names)[:24]}, {when}" for names, _ in shown for when in ("before", "after")]
    columns = [str(n + 1) for n in range(SHOWN)]
    grid_page(torch.cat([pictures for _, pictures in shown]), labels, columns, cell=96).save(
        RESULTS / f"scenes_{model}.png"
    )


if __name__ == "__main__":
    main()
