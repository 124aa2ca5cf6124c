"""Prompts that a gated patch acts on, on the miniature: python -m bench.gate [--quick] [--json FILE]

Rows: kind, threshold, named, synonyms, others, captions: share of prompts whose cosine is above the threshold, with
every thing, or style, gated alone. Token overlap, which the gate also uses for prompts of Encode Prompt, is left out.
named: a thing in 20 forms, a style with 12 subjects. synonyms: a thing's synonyms. others: every other thing, or style.
captions: everyday captions without the concept. The first row of a kind has the automatic threshold. Writes
bench/results/gate.md (not with --quick). Only text is encoded; nothing is sampled.
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
from fmn_core.compose.gate import ConceptGate, GateSettings
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


def similarities(gate: Any, prompts: Prompts, name: str) -> dict[str, list[float]]:
    """Cosines that a concept's gate gives to each group of prompts."""

    def cosines(words: Sequence[str]) -> list[float]:
        return [gate.cosine(p.context) for w in words for p in prompts.encoded(w)]

    is_style = name in STYLE_NAMES
    return {
        "named": cosines([name]),
        "synonyms": [] if is_style else cosines(BY_NAME[name].synonyms),
        "others": cosines([s for s in STYLE_NAMES if s != name] if is_style else other_concepts(name)),
        "captions": [gate.cosine(p.context) for p in prompts.captions if gate.overlap(p.tokens) < 1],
    }


def rows_of(world: World, kind: str, names: Sequence[str]) -> list[dict]:
    """A row with the automatic thresholds, then one for each of THRESHOLDS."""
    prompts, settings = Prompts(world), GateSettings()
    gates = []
    for name in names:
        gate = ConceptGate(prompts.adapter, [concept_of(world, prompts.adapter, name)])
        gates.append((settings.resolved(gate).threshold, similarities(gate, prompts, name)))
    automatic = [t for t, _ in gates]
    rows = [{"kind": kind, "threshold": f"automatic, {min(automatic):.2f}-{max(automatic):.2f}", **shares(gates)}]
    return rows + [{"kind": kind, "threshold": f"{t:g}", **shares([(t, s) for _, s in gates])} for t in THRESHOLDS]


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
thing and every style of the miniature gated alone; the tokens of the prompts, which name the concept at once where they are known, are left out. named: a thing in
{len(TEMPLATES)} forms, a style with {len(SUBJECTS)} subjects; synonyms: words which the gate was not told; others: all other things, or styles; captions: everyday captions without
the concept. How strongly embeddings are whitened was chosen on these prompts; the range of the automatic threshold over the concepts is given.

{table}
"""
        (RESULTS / "gate.md").write_text(text)


if __name__ == "__main__":
    main()
