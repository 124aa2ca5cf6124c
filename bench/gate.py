"""Prompts that a gated patch acts on, on the miniature: python -m bench.gate [--quick] [--json FILE]

Rows: kind, threshold, named, synonyms, others, captions: share of prompts whose cosine is above the threshold, with
every thing, or style, gated alone. Token overlap, which the gate also uses where a prompt's text is known, is left out.
named: a thing in 20 forms, a style with 12 subjects. synonyms: a thing's synonyms. others: every other thing, or style.
captions: everyday captions without the concept. The first row of a kind has the automatic threshold; "with words" has it
too, and token overlap, for a concept alone and with the synonyms that its closed form named. Writes bench/results/gate.md
(not with --quick). Only text is encoded; nothing is sampled.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.methods import concept_of
from bench.results_page import RESULTS, machine, markdown_table
from bench.style import SUBJECTS
from bench.world import World, other_concepts
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.compose.gate import ConceptGate
from fmn_core.compose.recorded import gated_concepts
from fmn_core.concepts.templates import everyday_captions
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, PLAIN_TEMPLATES, STYLE_NAMES, STYLED_TEMPLATES, with_article

COLUMNS = ("kind", "threshold", "named", "synonyms", "others", "captions")
SHARES = COLUMNS[2:]
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
STYLE = "noto"
TEMPLATES = (*STYLED_TEMPLATES, *PLAIN_TEMPLATES)


class Prompts:
    """Encoded prompts of the miniature's words, each encoded once."""

    def __init__(self, world: World):
        self.adapter = world.adapter()
        self.captions = self.adapter.encode(list(everyday_captions()))
        self._encoded: dict[str, list[Any]] = {}

    def encoded(self, words: str) -> list[Any]:
        """Prompts of a thing in every template, or of a style with every subject in two styled templates."""
        if words not in self._encoded:
            texts = [t.format(x=with_article(words), s=STYLE) for t in TEMPLATES]
            if words in STYLE_NAMES:
                pairs = [(STYLED_TEMPLATES[(3 * k + n) % 10], x) for k, x in enumerate(SUBJECTS) for n in range(2)]
                texts = [t.format(x=with_article(x), s=words) for t, x in pairs]
            self._encoded[words] = self.adapter.encode(texts)
        return self._encoded[words]


def similarities(gate: Any, prompts: Prompts, name: str, words_known: bool = False) -> dict[str, list[float]]:
    """What a concept's gate gives to each group of prompts: cosines, or similarities where their words are known."""

    def similarity(prompt: Any) -> float:
        return gate.similarity(prompt.context, prompt.tokens if words_known else None)

    def cosines(words: Sequence[str]) -> list[float]:
        return [similarity(p) for w in words for p in prompts.encoded(w)]

    is_style = name in STYLE_NAMES
    return {
        "named": cosines([name]),
        "synonyms": [] if is_style else cosines(BY_NAME[name].synonyms),
        "others": cosines([s for s in STYLE_NAMES if s != name] if is_style else other_concepts(name)),
        "captions": [similarity(p) for p in prompts.captions if gate.overlap(p.tokens) < 1],
    }


def rows_of(world: World, kind: str, names: Sequence[str]) -> list[dict]:
    """A row with the automatic thresholds, then one for each of THRESHOLDS."""
    prompts = Prompts(world)
    gates, with_words, with_synonyms = [], [], []
    for name in names:
        concepts = [concept_of(world, prompts.adapter, name)]
        gate = ConceptGate(prompts.adapter, concepts)
        gates.append((gate.threshold, similarities(gate, prompts, name)))
        with_words.append((gate.threshold, similarities(gate, prompts, name, words_known=True)))
        patch = forget_closed_form(prompts.adapter, concepts)
        gate = ConceptGate(prompts.adapter, gated_concepts(patch))
        with_synonyms.append((gate.threshold, similarities(gate, prompts, name, words_known=True)))
    automatic = [t for t, _ in gates]
    measured = {
        f"automatic, {min(automatic):.2f}-{max(automatic):.2f}": gates,
        "automatic, with words": with_words,
        "automatic, with words and the model's synonyms": with_synonyms,
        **{f"{t:g}": [(t, s) for _, s in gates] for t in THRESHOLDS},
    }
    return [{"kind": kind, "threshold": threshold, **shares(pairs)} for threshold, pairs in measured.items()]


def shares(gates: list[tuple[float, dict[str, list[float]]]]) -> dict[str, Any]:
    """Share of prompts above their gate's threshold; `gates` has a threshold and the cosines of each."""
    above = {column: [c > t for t, cosines in gates for c in cosines[column]] for column in SHARES}
    return {column: round(sum(on) / len(on), 4) if on else "" for column, on in above.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six concepts; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world = World()
    rows = rows_of(world, "thing", CONCEPT_NAMES[::6] if args.quick else CONCEPT_NAMES)
    rows += rows_of(world, "style", STYLE_NAMES[:1] if args.quick else STYLE_NAMES)
    table = markdown_table(
        [{k: f"{v:.1%}" if isinstance(v, float) else v for k, v in r.items()} for r in rows], COLUMNS
    )
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        text = f"""# Which prompts a gated patch acts on

Made by `python -m bench.gate` on {machine()}, {time.strftime("%Y-%m-%d")}. Share of prompts whose cosine is above the threshold, every
thing and every style of the miniature gated alone. "With words": similarity is also the share of a name's tokens in the prompt, as the gate takes it where the text is known;
"the model's synonyms": the names include the words that the training of a closed-form patch named. named: a thing in
{len(TEMPLATES)} forms, a style with {len(SUBJECTS)} subjects; synonyms: words that nobody listed; others: all other things, or styles; captions: everyday captions without
the concept. How strongly embeddings are whitened was chosen on these prompts; the range of the automatic threshold over the concepts is given.

{table}
"""
        (RESULTS / "gate.md").write_text(text)


if __name__ == "__main__":
    main()
