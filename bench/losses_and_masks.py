"""Losses, masks and several concepts on the miniature: python -m bench.losses_and_masks [--quick] [--only TEXT] [--json FILE]

Rows: part, method, concepts, forget_before, forget_after, keep_drop, style_after, drift, monitor, seconds, patch_bytes.
forget: share of pictures in which the judge sees the concept, mean over the forgotten concepts. keep_drop: share that
the other concepts lose. monitor: last figure of the training's drift monitor. Writes bench/results/losses_and_masks.md,
losses_and_masks.png, pairs.png and mask_overlay.png (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from bench.methods import Method, by_gradient, closed_form, concept_of, image_pairs, published
from bench.picture_pages import grid_page, to_pil
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Ask, Evaluation, World, other_concepts

COLUMNS = (
    "part",
    "method",
    "concepts",
    "forget_before",
    "forget_after",
    "keep_drop",
    "style_after",
    "drift",
    "monitor",
    "seconds",
    "patch_bytes",
)
SINGLE_CONCEPTS = (("zebra",), ("pizza",))
TEN_CONCEPTS = (
    "zebra",
    "pizza",
    "santa claus",
    "dog",
    "red apple",
    "robot",
    "guitar",
    "owl",
    "car",
    "clown",
)
BEST_PUBLISHED_RATE = {"learning_rate": 6e-5}  # found by bench.forget


def loss_methods() -> dict[str, Method]:
    """Methods with each of the two losses, and with both, 60 steps each."""
    visual = {"visual_weight": 1.0, "end_token": "all", "steps": 60}
    return {
        "re-steering, paper's loss": by_gradient(other_concepts, steps=60),
        "re-steering, released code's loss": by_gradient(other_concepts, steps=60, loss="released code"),
        "visual denoising, min-SNR": by_gradient(other_concepts, attention_weight=0.0, **visual),
        "visual denoising, uniform": by_gradient(
            other_concepts, attention_weight=0.0, visual_weighting="uniform", **visual
        ),
        "both": by_gradient(other_concepts, **visual),
    }


def several_methods() -> dict[str, Method]:
    """Methods that forget several concepts in one training, with the published loop for comparison."""
    return {
        "closed form": closed_form(other_concepts),
        "re-steering, 60 steps": by_gradient(other_concepts, steps=60),
        "published loop, 35 x 2e-6 a concept": published(),
        "published loop, 35 x 6e-5 a concept": published(**BEST_PUBLISHED_RATE),
    }


def row_of(
    world: World, part: str, name: str, method: Method, concepts: tuple[str, ...], quick: bool
) -> tuple[dict, torch.Tensor]:
    """One row and its first picture; means are over the forgotten concepts, and the kept concepts are measured once."""
    kept = [n for n in other_concepts(concepts[0]) if n not in concepts]
    few_pictures = quick or len(concepts) > 1
    figures_by_concept, picture = [], None
    with method(world, *concepts) as applied:
        for number, concept in enumerate(concepts):
            evaluation = Evaluation(world, concept, kept if number == 0 else [], few_pictures)
            figures_by_concept.append(evaluation.measure(applied.model))
            picture = evaluation.first_picture if picture is None else picture
    assert picture is not None

    def mean(key: str) -> float:
        return round(sum(f[key] for f in figures_by_concept) / len(figures_by_concept), 4)

    figures = {key: mean(key) for key in ("forget_before", "forget_after", "style_after")}
    figures |= {key: figures_by_concept[0][key] for key in ("keep_drop", "drift")}
    cost = {"monitor": applied.monitor, "seconds": round(applied.seconds, 2), "patch_bytes": applied.patch_bytes}
    return {
        "part": part,
        "method": name,
        "concepts": str(len(concepts)) if len(concepts) > 1 else concepts[0],
        **figures,
        **cost,
    }, picture


def composite(world: World, left: str, right: str, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 128, 128, 3) of one thing beside another, and masks (N, 128, 128) of the left one."""
    pictures = {}
    for name in (left, right):
        ask = Evaluation(world, name, [], seed=40).target
        images = world.sample(ask)[:count].movedim(-1, 1)
        pictures[name] = torch.nn.functional.interpolate(images, size=(64, 64), mode="area").movedim(1, -1)
    images, mask = torch.ones(count, 128, 128, 3), torch.zeros(count, 128, 128)
    images[:, 32:96, :64], images[:, 32:96, 64:] = pictures[left], pictures[right]
    mask[:, 32:96, :64] = 1
    return images, mask


def mask_rows(world: World, quick: bool) -> list[dict]:
    """Rows of re-steering, with and without a mask, on pictures in which the concept covers one half."""
    rows = []
    for left, right in (("zebra", "pizza"), ("pizza", "zebra")):
        images, mask = composite(world, left, right)
        for name, masks in (("re-steering, images", None), ("re-steering, images and mask", mask)):
            method = by_gradient(other_concepts, pictured=(images, masks), steps=60)
            rows.append(row_of(world, "masks", f"{name} ({right} beside it)", method, (left,), quick)[0])
            print(json.dumps(rows[-1]), flush=True)
    return rows


def measure_rows(world: World, quick: bool, only: str) -> tuple[list[dict], dict]:
    """All rows, and a picture of every row outside the masks."""
    jobs: list[tuple[str, str, Method, tuple[str, ...]]] = []
    jobs += [("losses", n, m, c) for n, m in loss_methods().items() for c in SINGLE_CONCEPTS]
    jobs += [("several", n, m, TEN_CONCEPTS[:k]) for k in (10, 5, 1) for n, m in several_methods().items()]
    rows, pictures = [], {}
    for part, name, method, concepts in jobs:
        if only and only not in part:
            continue
        row, picture = row_of(world, part, name, method, concepts, quick)
        rows.append(row)
        pictures[part, name, concepts] = picture
        print(json.dumps(row), flush=True)
    if not only or only in "masks":
        rows += mask_rows(world, quick)
    return rows, pictures


def save_pairs(world: World, path: Path) -> None:
    """Writes the image pairs that visual denoising trains on: attention kept above, zeroed below."""
    adapter = world.adapter()
    with torch.inference_mode(False), torch.no_grad():
        world.host.load(world.model)
        [pairs] = image_pairs(adapter, [concept_of(world, adapter, "zebra")], count=6)
        images = torch.cat([adapter.decode_latents(world.vae, side) for side in (pairs.kept, pairs.zeroed)])
    page = torch.cat([torch.cat(list(images[k : k + 6]), dim=1) for k in (0, 6)])
    to_pil(page).save(path)


def save_mask_overlay(world: World, path: Path) -> None:
    """Writes three pictures, each beside its mask from Attention Mask at the node's defaults."""
    node, tiles = world.node("attention.attention_mask").AttentionMask, []
    defaults = {i.id: getattr(i, "default", None) for i in node.define_schema().inputs}
    for concept in ("zebra", "santa claus", "pizza"):
        ask = Evaluation(world, concept, [], seed=3).target
        image = world.sample(Ask(ask.prompts[:1], ask.seeds[:1], ask.concepts[:1], ask.styles[:1]))
        connected = {"model": world.model, "clip": world.clip, "vae": world.vae, "images": image}
        with torch.inference_mode():
            overlay = node.execute(**{**defaults, **connected, "phrase": concept, "prompt": ask.prompts[0]}).result[1]
        tiles += [image[0], overlay[0]]
    to_pil(torch.cat(tiles, dim=1)).save(path)


def write_results(world: World, rows: list[dict], pictures: dict) -> None:
    """Writes the results page and its pictures."""
    parts = ("losses", "masks", "several")
    tables = {part: markdown_table([r for r in rows if r["part"] == part], COLUMNS[1:]) for part in parts}
    text = f"""# Losses, masks and several concepts on the miniature

Made by `python -m bench.losses_and_masks` on {machine()}, {time.strftime("%Y-%m-%d")}. Sampling: Euler, 12 steps, guidance 3; unseen seeds and
templates. monitor: the drift monitor's last figure.

## Losses

{tables["losses"]}

![pairs: attention kept above, zeroed below](pairs.png)

## Masks

The training pictures show the concept in their left half and something else in their right half; the mask is the left half.

{tables["masks"]}

## Several concepts

{tables["several"]}

![one picture a row of the first concept](losses_and_masks.png)
"""
    (RESULTS / "losses_and_masks.md").write_text(text)
    save_pairs(world, RESULTS / "pairs.png")
    save_mask_overlay(world, RESULTS / "mask_overlay.png")
    several = {(n, len(c)): p for (part, n, c), p in pictures.items() if part == "several"}
    names, counts = list(dict.fromkeys(n for n, _ in several)), sorted({k for _, k in several})
    grid = torch.cat([several[n, k] for n in names for k in counts])
    grid_page(grid, names, [f"{k} concepts" for k in counts], cell=96, left=260).save(RESULTS / "losses_and_masks.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pictures; writes no results page")
    parser.add_argument("--only", default="", help="one part: losses, masks or several")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world = World()
    rows, pictures = measure_rows(world, args.quick, args.only)
    print(markdown_table(rows, COLUMNS))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick and not args.only:
        write_results(world, rows, pictures)


if __name__ == "__main__":
    main()
