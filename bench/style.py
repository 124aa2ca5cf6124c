"""Forgetting a style by its word, in closed form, on the miniature: python -m bench.style [--quick] [--json FILE]

Rows: style, style_before, style_after, fallback, object_kept, other_styles_kept: shares of pictures in which the judge sees the style (before, after, and
when no style is named: what forgetting can reach), the right object, and, under the other styles' words, those styles. Unlisted: nothing is
given to preserve. Writes bench/results/style.md (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.judged import share
from bench.methods import closed_form
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Ask, World
from mini_sd.concepts import STYLE_NAMES, drawn_styles, with_article
from mini_sd.generate import generate

COLUMNS = ("style", "style_before", "style_after", "fallback", "object_kept", "other_styles_kept", "seconds")
THINGS = ("horse", "guitar", "cat", "banana", "rocket", "fox", "owl", "pizza", "clown", "umbrella", "robot", "cactus")
# Forms and things apart from the few that the templates of styles share with the miniature: "a house", "a dog", "a car".
FORMS = (1, 2, 4, 6, 8)


def styled(style: str, count: int, seed: int) -> Ask:
    ask = Ask()
    for k in range(count):
        thing = THINGS[k % len(THINGS)]
        if style in drawn_styles(thing):
            ask.add(thing, thing, style, FORMS[k % len(FORMS)], seed + k)
    return ask


def fallback(world: World, style: str, count: int) -> float:
    """How often the style is seen when none is named."""
    prompts = [f"a picture of {with_article(THINGS[k % len(THINGS)])}" for k in range(count)]
    images = generate(world.model, world.clip, world.vae, prompts, list(range(3000, 3000 + count)), steps=world.steps)
    return share(world.seen(images)[1], [style] * count)


def row(world: World, style: str, count: int) -> dict[str, Any]:
    target = styled(style, count, 1000)
    others = [styled(other, max(4, count // 3), 2000) for other in STYLE_NAMES if other != style]
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
        rows.append(row(world, style, 6 if args.quick else 24))
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
