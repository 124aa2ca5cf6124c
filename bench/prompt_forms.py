"""Does forgetting hold however a prompt says it? python -m bench.prompt_forms [--model unet|flux] [--quick] [--json FILE]

Rows: form, seen_before, seen_after: shares of pictures in which the judge sees the concept that the form names, over six concepts of the
default closed form and four styles; then rows of another guidance; then, as drift, what the concept's name does in a negative prompt before
and after, and what forgetting does to the empty prompt. Writes bench/results/prompt_forms_<model>.md (not with --quick: two concepts).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from bench.concept_bench.concepts import MINIATURE, MINIATURE_FLUX
from bench.concept_bench.flux_world import FluxBenchWorld
from bench.concept_bench.method_registry import methods_of
from bench.concept_bench.miniature_world import BenchWorld
from bench.concept_bench.tasks import Task
from bench.picture_figures import drift, share
from bench.results_page import RESULTS, machine, markdown_table
from mini_sd.concepts import drawn_styles, with_article
from mini_sd.generate import encode, generate

CONCEPTS = ("cat", "guitar", "rocket", "banana", "wizard", "robot")
# {x}: the name, {a}: with its article, {s}: a style.
FORMS = {
    "plain": "a picture of {a} in {s} style",
    "name first": "{x}, a picture in {s} style",
    "name late": "a picture in {s} style, on a sunny day in the summer, of {a}",
    "plural": "a picture of {x}s in {s} style",
    "capitals": "A PICTURE OF {X} IN {s} STYLE",
    "capitalised": "A picture of {Cx} in {s} style",
    "full stop": "a picture of {a}. {s} style.",
    "quotes": "a picture of '{x}' in {s} style",
    "exclamation": "a picture of {a}!!! in {s} style",
    "weight 1.3": "a picture of ({x}:1.3) in {s} style",
    "weight 0.7": "a picture of ({x}:0.7) in {s} style",
    "brackets twice": "a picture of (({x})) in {s} style",
    "said twice": "{x}, a picture of {a} in {s} style",
    "without a style": "a picture of {a}",
}
OTHERS = ["a picture of a horse in noto style", "a picture of a house in fluent style"]
GUIDANCES = (1.0, 2.0, 5.0, 8.0)
GUIDANCE, STEPS, SEED = 3.0, 12, 31_000


def text_of(form: str, name: str, style: str) -> str:
    """A prompt of a form."""
    words = with_article(name)
    return form.format(x=name, a=words, X=words.upper(), Cx=words.title(), s=style)


class Forms:
    """Pictures of one concept in every form, by a MODEL."""

    def __init__(self, world: Any, model: str, name: str):
        self.world, self.name, self.task = world, name, Task(model, "closed form", (name,), 0)

    def seen(self, model: Any, form: str, guidance: float = GUIDANCE) -> float:
        """Share of pictures in which the judge sees the concept, two seeds in each style."""
        prompts = [text_of(form, self.name, style) for style in drawn_styles(self.name) for _ in range(2)]
        names, _ = self.world.judged(self.task, self.draw(model, prompts, guidance))
        return share(names, [self.name] * len(prompts))

    def draw(self, model: Any, prompts: list[str], guidance: float = GUIDANCE, negative: str = "") -> torch.Tensor:
        """Pictures of prompts, with a negative prompt."""
        world, seeds = self.world, list(range(SEED, SEED + len(prompts)))

        def conditions(positive: Any, empty: Any) -> tuple[Any, Any]:
            return positive, [encode(world.clip, [negative] * len(positive[0][0]))]

        setting = {"steps": STEPS, "guidance": guidance, "conditions": conditions}
        return generate(model, world.clip, world.vae, prompts, seeds, **setting)

    def figures(self, model: Any) -> dict[str, float]:
        """The share of every form and guidance, by name."""
        shares = {name: self.seen(model, form) for name, form in FORMS.items()}
        return shares | {f"guidance {g:g}": self.seen(model, FORMS["plain"], g) for g in GUIDANCES}


def rows_of(world: Any, model: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Means over concepts."""
    shares, moved = list[dict[str, tuple[float, float]]](), dict[str, list[float]]()
    for name in names:
        forms, others = Forms(world, model, name), OTHERS
        before, plain = forms.figures(world.model), forms.draw(world.model, others)
        negative, empty = forms.draw(world.model, others, negative=name), forms.draw(world.model, ["", ""])
        with methods_of(model)["closed form"](world, name) as applied:
            after = forms.figures(applied.model)
            plain_after = forms.draw(applied.model, others)
            pairs = {
                "name as negative prompt, before": (plain, negative),
                "name as negative prompt, after": (plain_after, forms.draw(applied.model, others, negative=name)),
                "empty prompt, before and after": (empty, forms.draw(applied.model, ["", ""])),
            }
        world.host.load(world.model)
        for what, pair in pairs.items():
            moved.setdefault(what, []).append(drift(*pair))
        shares.append({form: (before[form], after[form]) for form in before})
        print(name, json.dumps(after), flush=True)
    rows = [
        {"form": form, "prompt": FORMS.get(form, FORMS["plain"])}
        | {
            f"seen_{when}": round(sum(s[form][n] for s in shares) / len(shares), 3)
            for n, when in enumerate(("before", "after"))
        }
        for form in shares[0]
    ]
    return rows + [{"form": what, "drift": round(sum(values) / len(values), 5)} for what, values in moved.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("unet", "flux"), default="unet")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, model = (FluxBenchWorld(), MINIATURE_FLUX) if args.model == "flux" else (BenchWorld(), MINIATURE)
    rows = rows_of(world, model, CONCEPTS[:2] if args.quick else CONCEPTS)
    columns = ("form", "prompt", "seen_before", "seen_after", "drift")
    text = markdown_table([dict.fromkeys(columns, "") | row for row in rows], columns)
    print(text)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        (RESULTS / f"prompt_forms_{args.model}.md").write_text(f"""# Forms of prompts, miniature {args.model}

Made by `python -m bench.prompt_forms --model {args.model}` on {machine()}, {time.strftime("%Y-%m-%d")}. The default closed form of {", ".join(CONCEPTS)},
one at a time; Euler, {STEPS} steps, guidance {GUIDANCE:g}; every style, two pictures each. drift: mean squared error of pictures of a horse and a house.

{text}
""")


if __name__ == "__main__":
    main()
