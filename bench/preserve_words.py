"""Where the words to preserve come from, side by side on the miniature: python -m bench.preserve_words [--only TEXT] [--concepts a,b] [--json FILE]

Rows: variant, concept, forget_after, synonym_after, keep_drop, style_after, drift, seconds. Every variant forgets one concept at a
time with the closed form at its defaults, but for the preserve set. Writes bench/results/preserve_words.md and
preserve_words.json (not with --only or --concepts).
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import torch

from bench.methods import concept_of, patched
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Evaluation, World, other_concepts
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import FORGOTTEN, ClosedFormSettings
from mini_sd.concepts import CONCEPTS, STYLE_NAMES

# Settings are chosen on these concepts; no other table holds them.
NAMES = ("zebra", "dog", "frog", "umbrella")
STEPS = 8
NONE: dict[str, Any] = {"imagined_words": 0, "use_everyday_captions": False, "vocabulary_words": 0}
IMAGINED, CAPTIONS, VOCABULARY = ({k: v for k, v in NONE.items() if k != used} for used in NONE)
# `listed`: the other concepts are listed to preserve. `without`: the test's words are no words of the vocabulary.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "default, the test's words not in the vocabulary": {"without": True},
    "default, synonyms forgotten too": {"synonyms": FORGOTTEN},
    "default, the others listed": {"listed": True},
    "imagined words alone": IMAGINED,
    "everyday captions alone": CAPTIONS,
    "vocabulary alone": VOCABULARY,
    "vocabulary alone, without the test's words": {**VOCABULARY, "without": True},
    "the others listed alone": {**NONE, "listed": True},
    "no imagined words": {"imagined_words": 0},
    "no everyday captions": {"use_everyday_captions": False},
    "no vocabulary": {"vocabulary_words": 0},
    "half the imagined words": {"imagined_words": 200},
}
COLUMNS = ("variant", "concept", "forget_after", "synonym_after", "keep_drop", "style_after", "drift", "seconds")
FIGURES = COLUMNS[2:]


def test_words() -> set[str]:
    """Every word that names a concept, a synonym or a style of the miniature."""
    names = [name for concept in CONCEPTS for name in (concept.name, *concept.synonyms)]
    return {word for name in (*names, *STYLE_NAMES) for word in re.findall("[a-z]+", name)}


def solved(world: World, name: str, variant: dict[str, Any]) -> Any:
    """The patch of a variant."""
    settings = {key: value for key, value in variant.items() if key not in ("listed", "without")}
    listed = other_concepts(name) if variant.get("listed") else []
    adapter = world.adapter()
    if variant.get("without"):
        left_out = test_words()
        words = {token: word for token, word in adapter.words().items() if word not in left_out}
        adapter.words = lambda: words
    with torch.inference_mode(False), torch.no_grad():
        return forget_closed_form(
            adapter, [concept_of(world, adapter, name)], ClosedFormSettings(preserve_prompts=listed, **settings)
        )


def rows_of(world: World, label: str, names: list[str]) -> list[dict[str, Any]]:
    """The rows of a variant: one for each concept, and their mean."""
    rows = []
    for name in names:
        patch = solved(world, name, VARIANTS[label])
        applied = patched(world, patch)
        figures = Evaluation(world, name, other_concepts(name)).measure(applied.model)
        rows.append({"variant": label, "concept": name, **figures, "seconds": round(applied.seconds, 2)})
        print(json.dumps(rows[-1]), flush=True)
    means = {key: round(sum(row[key] for row in rows) / len(rows), 4) for key in FIGURES}
    return [*rows, {"variant": label, "concept": "mean", **means}]


def write_page(rows: list[dict[str, Any]]) -> None:
    """Writes the results page and its figures."""
    (RESULTS / "preserve_words.json").write_text(json.dumps(rows, indent=1) + "\n")
    means = [row for row in rows if row["concept"] == "mean"]
    (RESULTS / "preserve_words.md").write_text(f"""# Where the words to preserve come from

Made by `python -m bench.preserve_words` on {machine()}, {time.strftime("%Y-%m-%d")}. One concept at a time, in closed form at its defaults but for the preserve
set; {STEPS} steps; 12 to 16 pictures of the concept in styles and forms of no template, 3 or 4 of its synonym, 33 of other concepts. forget, synonym: share
of pictures in which the judge sees the concept. keep_drop: share lost by the other concepts. A synonym is not forgotten on purpose but in the row that says so.

{markdown_table(means, COLUMNS)}

By concept:

{markdown_table([row for row in rows if row["concept"] != "mean"], COLUMNS)}
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--concepts", default=",".join(NAMES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, names = World(steps=STEPS), args.concepts.split(",")
    rows = [row for label in VARIANTS if args.only in label for row in rows_of(world, label, names)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not args.only and names == list(NAMES):
        write_page(rows)


if __name__ == "__main__":
    main()
