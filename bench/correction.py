"""Concept correction on the miniature: python -m bench.correction [--quick] [--json FILE]

Rows: word, guidance, dominant_before, other_before, dominant_after, other_after, named_after, keep_drop,
inversion_seconds, seconds, patch_bytes. dominant, other: shares of pictures of the bare word in which the judge sees
the dominant and the other meaning. named_after: share in which it still sees the dominant meaning when a prompt names
it unambiguously. keep_drop: share that the other concepts lose. The model draws the images that are inverted; the seeds
of training and measuring differ. Writes bench/results/correction.md and correction.png (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.methods import Applied, patched
from bench.picture_figures import share
from bench.picture_pages import grid_page
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
class AmbiguousWord:
    """An ambiguous word: its dominant meaning, an unambiguous name of that meaning, and its other meaning."""

    word: str
    dominant: str
    named: str
    other: str


SAMPLING_STEPS = 20
# 3 is the miniature's default; at 5 a word's dominant meaning dominates more, as it does in models of full size.
GUIDANCES = (3.0, 5.0)
WORDS = (
    AmbiguousWord("apple", "red apple", "crimson apple", "green apple"),
    AmbiguousWord("mouse", "mouse", "rodent", "computer mouse"),
)


def ask_in_styles(words: str, concept: str, per_style: int, first_seed: int) -> Ask:
    """Prompts with the words in every style, with the templates in turn."""
    ask = Ask()
    for s, style in enumerate(STYLE_NAMES):
        for k in range(per_style):
            ask.add(words, concept, style, 3 * s + k, first_seed + k)
    return ask


def correct_word(world: World, case: AmbiguousWord) -> tuple[Applied, float]:
    """The word's correction from eight pictures of the dominant meaning, and the seconds of the inversion."""
    adapter = world.adapter()
    images = world.sample(ask_in_styles(case.named, case.dominant, 2, 7000))
    templates = list(default_templates("object"))
    started = time.perf_counter()
    with torch.inference_mode(False):
        references = References(adapter.encode_images(images.clone(), world.vae))
        settings = InversionSettings(tokens=2, words=case.word, steps=60, warmup=12, learning_rate=2e-2, batch=4)
        with adapter.ready_for_gradients(text=True):
            embedding = invert_concept(adapter, references, templates, settings).embedding
        inversion_seconds = time.perf_counter() - started
        concept = Concept([], "object", templates, embedding=embedding)
        correction_settings = ClosedFormSettings(
            preserve_prompts=other_concepts(case.dominant), preservation=PRESERVATION
        )
        patch = correct_concept(adapter, case.word, [case.other], concept, correction_settings)
    return patched(world, patch), inversion_seconds


def rows_of(world: World, case: AmbiguousWord, quick: bool) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """A row for each guidance, and pictures of the bare word, first those before and then those after."""
    per_style, rows = (2 if quick else 8), []
    bare = ask_in_styles(case.word, case.dominant, per_style, 100)
    named = ask_in_styles(case.named, case.dominant, 2, 300)
    kept = others_ask(other_concepts(case.dominant), 1 if quick else 2, 500)
    world.guidance = GUIDANCES[0]
    applied, inversion_seconds = correct_word(world, case)
    cost = {"inversion_seconds": round(inversion_seconds, 1), "seconds": round(applied.seconds, 2)}
    one_a_style = bare.every(per_style)
    pictures = torch.cat([world.sample(one_a_style), world.sample(one_a_style, applied.model)])
    for guidance in GUIDANCES[:1] if quick else GUIDANCES:
        world.guidance = guidance
        figures = meaning_shares(world, case, applied.model, bare, named, kept)
        rows.append({"word": case.word, "guidance": guidance, **figures, **cost, "patch_bytes": applied.patch_bytes})
    return rows, pictures


def meaning_shares(world: World, case: AmbiguousWord, model: Any, bare: Ask, named: Ask, kept: Ask) -> dict[str, Any]:
    """Shares of the word's meanings before and after, and the share that the other concepts lose."""

    def seen(ask: Ask, patched: Any = None) -> list[str]:
        return world.seen(world.sample(ask, patched))[0]

    def share_of(name: str, names: list[str]) -> float:
        return share(names, [name] * len(names))

    before, after = seen(bare), seen(bare, model)
    keep_drop = share(seen(kept), kept.concepts) - share(seen(kept, model), kept.concepts)
    return {
        "dominant_before": share_of(case.dominant, before),
        "other_before": share_of(case.other, before),
        "dominant_after": share_of(case.dominant, after),
        "other_after": share_of(case.other, after),
        "named_after": share_of(case.dominant, seen(named, model)),
        "keep_drop": round(keep_drop, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the pictures; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, rows, pictures = World(SAMPLING_STEPS), [], []
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
    """Writes the results page and its pictures."""
    text = f"""# Concept correction on the miniature

Made by `python -m bench.correction` on {machine()}, {time.strftime("%Y-%m-%d")}. The word alone, 32 pictures (every style, unseen
seeds, {SAMPLING_STEPS} steps); named_after: 8 pictures of the dominant meaning by its own name, which goes where its inverted tokens
go; keep_drop over 66 pictures of the other concepts. The pictures below are at guidance {GUIDANCES[0]:g}.

{markdown_table(rows, COLUMNS)}

![the word before and after](correction.png)
"""
    (RESULTS / "correction.md").write_text(text)
    labels = [f"{case.word}, {when}" for case in WORDS for when in ("before", "after")]
    grid_page(torch.cat(pictures), labels, list(STYLE_NAMES), cell=96).save(RESULTS / "correction.png")


if __name__ == "__main__":
    main()
