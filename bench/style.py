"""Forgetting a style by its word, in closed form, on the miniature: python -m bench.style [--quick] [--json FILE]

Rows: style, style_before, style_after, fallback, object_kept, other_styles_kept: shares of pictures in which the judge
sees the style before and after, the style when no style is named (the floor of forgetting), the right object, and the
other styles where prompts name them. Nothing is listed to preserve. Writes bench/results/style.md (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.methods import closed_form
from bench.picture_figures import share
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Ask, World
from mini_sd.concepts import STYLE_NAMES, drawn_styles, with_article
from mini_sd.generate import generate

COLUMNS = ("style", "style_before", "style_after", "fallback", "object_kept", "other_styles_kept", "seconds")
SUBJECTS = ("horse", "guitar", "cat", "banana", "rocket", "fox", "owl", "pizza", "clown", "umbrella", "robot", "cactus")
# Numbers of styled templates. They and the subjects are not in the styles' own templates (a house, a dog, a car).
TEMPLATE_NUMBERS = (1, 2, 4, 6, 8)


def style_ask(style: str, count: int, seed: int) -> Ask:
    """Pictures of subjects in a style, without those that the style does not have."""
    ask = Ask()
    for k in range(count):
        thing = SUBJECTS[k % len(SUBJECTS)]
        if style in drawn_styles(thing):
            ask.add(thing, thing, style, TEMPLATE_NUMBERS[k % len(TEMPLATE_NUMBERS)], seed + k)
    return ask


def fallback(world: World, style: str, count: int) -> float:
    """Share of pictures in which the style is seen when the prompt names none."""
    prompts = [f"a picture of {with_article(SUBJECTS[k % len(SUBJECTS)])}" for k in range(count)]
    images = generate(world.model, world.clip, world.vae, prompts, list(range(3000, 3000 + count)), steps=world.steps)
    return share(world.seen(images)[1], [style] * count)


def row_of(world: World, style: str, count: int) -> dict[str, Any]:
    """The row of one style, with `count` pictures of it."""
    target = style_ask(style, count, 1000)
    others = [style_ask(other, max(4, count // 3), 2000) for other in STYLE_NAMES if other != style]
    before = world.seen(world.sample(target))[1]
    with closed_form(lambda name: [])(world, style) as applied:
        seen, styles = world.seen(world.sample(target, applied.model))
        kept = [world.seen(world.sample(ask, applied.model))[1] for ask in others]
    return {
        "style": style,
        "style_before": share(before, target.styles),
        "style_after": share(styles, target.styles),
        "fallback": fallback(world, style, count),
        "object_kept": share(seen, target.concepts),
        "other_styles_kept": share([s for k in kept for s in k], [s for ask in others for s in ask.styles]),
        "seconds": round(applied.seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one style, few pictures; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, rows = World(), []
    for style in STYLE_NAMES[:1] if args.quick else STYLE_NAMES:
        rows.append(row_of(world, style, 6 if args.quick else 24))
        print(json.dumps(rows[-1]), flush=True)
    table = markdown_table(rows, COLUMNS)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        (RESULTS / "style.md").write_text(f"""# Forgetting a style by its word

Made by `python -m bench.style` on {machine()}, {time.strftime("%Y-%m-%d")}. Closed form, nothing listed to preserve; 24 pictures a style, Euler, {world.steps} steps, guidance
{world.guidance:g}. fallback: how often the style is seen when no style is named, which is what forgetting can reach.

{table}
""")


if __name__ == "__main__":
    main()
