"""Concept correction on the miniature: python -m bench.correction [--quick] [--json FILE]

Rows: word, guidance, dominant_before, other_before, dominant_after, other_after, named_after, keep_drop, inversion_seconds, seconds, patch_bytes.
dominant, other: shares of pictures of the bare word in which the judge sees the dominant and the other meaning; named_after: share in which it
still sees the dominant meaning when that is asked for by its own name; keep_drop: share that the other concepts lose. The
images that are inverted are made by the model itself; seeds of training and measuring differ. Writes
bench/results/correction.md and correction.png (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.judged import share
from bench.methods import Applied, patched
from bench.pages import grid_page
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Ask, World, other_concepts, others_ask
from fmn_core.closed_form.correction import PRESERVATION, correct_concept
from fmn_core.closed_form.forget import ClosedFormSettings
from fmn_core.concepts.concept import Concept
from fmn_core.concepts.templates import default_templates
from fmn_core.training.inversion import InversionSettings, invert_concept
from fmn_core.training.references import References
from mini_sd.concepts import STYLE_NAMES

COLUMNS = (
    "word",
    "guidance",
    "dominant_before",
    "other_before",
    "dominant_after",
    "other_after",
    "named_after",
    "keep_drop",
    "inversion_seconds",
    "seconds",
    "patch_bytes",
)


@dataclass
class Word:
    """An ambiguous word: the concept that dominates it, a name that means nothing else, and its other meaning."""

    word: str
    dominant: str
    named: str
    other: str


STEPS = 20
# 3 is the miniature's own; at 5 a word's dominant meaning dominates more, as it does in models of full size.
GUIDANCES = (3.0, 5.0)
WORDS = (Word("apple", "red apple", "crimson apple", "green apple"), Word("mouse", "mouse", "rodent", "computer mouse"))


def asked(words: str, concept: str, per_style: int, first_seed: int) -> Ask:
    """Prompts with the words in every style, over the templates in turn."""
    ask = Ask()
    for s, style in enumerate(STYLE_NAMES):
        for k in range(per_style):
            ask.add(words, concept, style, 3 * s + k, first_seed + k)
    return ask


def corrected(world: World, case: Word) -> tuple[Applied, float]:
    """The correction as the node makes it, from eight pictures of the dominant meaning."""
    adapter = world.adapter()
    images = world.sample(asked(case.named, case.dominant, 2, 7000))
    templates = list(default_templates("object"))
    started = time.perf_counter()
    with torch.inference_mode(False):
        references = References(adapter.encode_images(images.clone(), world.vae))
        settings = InversionSettings(tokens=2, words=case.word, steps=60, warmup=12, learning_rate=2e-2, batch=4)
        with adapter.ready_for_gradients(text=True):
            word = invert_concept(adapter, references, templates, settings).word
        inversion_seconds = time.perf_counter() - started
        concept = Concept([], "object", templates, embedding=word)
        kept = ClosedFormSettings(preserve_prompts=other_concepts(case.dominant), preservation=PRESERVATION)
        patch = correct_concept(adapter, case.word, [case.other], concept, kept)
    return patched(world, patch), inversion_seconds


def rows_of(world: World, case: Word, quick: bool) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """A row for each guidance, and a grid of pictures of the bare word: before in the upper row, after in the lower."""
    per_style, found = (2 if quick else 8), []
    bare, named = asked(case.word, case.dominant, per_style, 100), asked(case.named, case.dominant, 2, 300)
    kept = others_ask(other_concepts(case.dominant), 1 if quick else 2, 500)
    world.guidance = GUIDANCES[0]
    applied, inversion_seconds = corrected(world, case)
    cost = {"inversion_seconds": round(inversion_seconds, 1), "seconds": round(applied.seconds, 2)}
    chosen = Ask(*(list(v[::per_style]) for v in (bare.prompts, bare.seeds, bare.concepts, bare.styles)))
    pictures = torch.cat([world.sample(chosen), world.sample(chosen, applied.model)])
    for guidance in GUIDANCES[:1] if quick else GUIDANCES:
        world.guidance = guidance
        figures = measured(world, case, applied.model, bare, named, kept)
        found.append({"word": case.word, "guidance": guidance, **figures, **cost, "patch_bytes": applied.patch_bytes})
    return found, pictures


def measured(world: World, case: Word, model: Any, bare: Ask, named: Ask, kept: Ask) -> dict[str, Any]:
    """Shares of the word's meanings before and after, and what the other concepts lose."""

    def seen(ask: Ask, patched: Any = None) -> list[str]:
        return world.seen(world.sample(ask, patched))[0]

    def of(names: list[str], wanted: str) -> float:
        return share(names, [wanted] * len(names))

    before, after = seen(bare), seen(bare, model)
    lost = share(seen(kept), kept.concepts) - share(seen(kept, model), kept.concepts)
    return {
        "dominant_before": of(before, case.dominant),
        "other_before": of(before, case.other),
        "dominant_after": of(after, case.dominant),
        "other_after": of(after, case.other),
        "named_after": of(seen(named, model), case.dominant),
        "keep_drop": round(lost, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the pictures; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, rows, pictures = World(STEPS), [], []
    for case in WORDS:
        figures, images = rows_of(world, case, args.quick)
        rows += figures
        pictures.append(images)
        print("\n".join(json.dumps(r) for r in figures), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        write_results(rows, pictures)


def write_results(rows: list[dict], pictures: list[torch.Tensor]) -> None:
    text = f"""# Concept correction on the miniature

Made by `python -m bench.correction` on {machine()}, {time.strftime("%Y-%m-%d")}. The word alone, 32 pictures (every style, unseen
seeds, {STEPS} steps); named_after: 8 pictures of the dominant meaning by its own name, which is forgotten with its inverted
tokens; keep_drop over 66 pictures of the other concepts. The pictures below are at guidance {GUIDANCES[0]:g}.

{markdown_table(rows, COLUMNS)}

![the word before and after](correction.png)
"""
    (RESULTS / "correction.md").write_text(text)
    labels = [f"{case.word}, {when}" for case in WORDS for when in ("before", "after")]
    grid_page(torch.cat(pictures), labels, list(STYLE_NAMES), cell=96).save(RESULTS / "correction.png")


if __name__ == "__main__":
    main()
