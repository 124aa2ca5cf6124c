"""Which prompts a gated patch acts on, on the miniature: python -m bench.gate [--quick] [--json FILE]

Rows: kind, threshold, named, synonyms, others, captions: share of prompts whose cosine is above the threshold, over every thing, or style, gated
alone; token overlap, which the gate knows of prompts of Encode Prompt, is left out. named: a thing in 20 forms, a style with 12 subjects; synonyms: a thing's
other words; others: every other thing, or style; captions: everyday captions without the concept. The first row of a kind is the automatic
threshold. Writes bench/results/gate.md (not with --quick). Encodes text only; no picture is made.
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
from bench.style import THINGS
from bench.world import World, other_concepts
from fmn_core.compose.gate import ConceptGate, GateSettings
from fmn_core.concepts.templates import everyday_captions
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, PLAIN_TEMPLATES, STYLE_NAMES, STYLED_TEMPLATES, with_article

COLUMNS = ("kind", "threshold", "named", "synonyms", "others", "captions")
SHARES = COLUMNS[2:]
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
STYLE = "noto"
FORMS = (*STYLED_TEMPLATES, *PLAIN_TEMPLATES)


class Prompts:
    """Every word of the miniature in every form, encoded once."""

    def __init__(self, world: World):
        self.adapter = world.adapter()
        self.captions = self.adapter.encode(list(everyday_captions()))
        self._encoded: dict[str, list[Any]] = {}

    def of(self, words: str) -> list[Any]:
        """A thing in every form, or a style with every subject in two forms of a style."""
        if words not in self._encoded:
            forms = [t.format(x=with_article(words), s=STYLE) for t in FORMS]
            if words in STYLE_NAMES:
                pairs = [(STYLED_TEMPLATES[(3 * k + n) % 10], x) for k, x in enumerate(THINGS) for n in range(2)]
                forms = [t.format(x=with_article(x), s=words) for t, x in pairs]
            self._encoded[words] = self.adapter.encode(forms)
        return self._encoded[words]


def similarities(gate: Any, prompts: Prompts, name: str) -> dict[str, list[float]]:
    def found(words: Sequence[str]) -> list[float]:
        return [gate.cosine(p.context) for w in words for p in prompts.of(w)]

    is_style = name in STYLE_NAMES
    return {
        "named": found([name]),
        "synonyms": [] if is_style else found(BY_NAME[name].synonyms),
        "others": found([s for s in STYLE_NAMES if s != name] if is_style else other_concepts(name)),
        "captions": [gate.cosine(p.context) for p in prompts.captions if gate.overlap(p.tokens) < 1],
    }


def measure(world: World, kind: str, names: Sequence[str]) -> list[dict]:
    prompts, settings = Prompts(world), GateSettings()
    found = []
    for name in names:
        gate = ConceptGate(prompts.adapter, [concept_of(world, prompts.adapter, name)])
        found.append((settings.resolved(gate).threshold, similarities(gate, prompts, name)))
    chosen = [t for t, _ in found]
    rows = [{"kind": kind, "threshold": f"automatic, {min(chosen):.2f}-{max(chosen):.2f}", **shares(found)}]
    return rows + [{"kind": kind, "threshold": f"{t:g}", **shares([(t, s) for _, s in found])} for t in THRESHOLDS]


def shares(found: list[tuple[float, dict[str, list[float]]]]) -> dict[str, Any]:
    """Share of prompts above the threshold of their gate."""
    above = {column: [v > t for t, values in found for v in values[column]] for column in SHARES}
    return {column: round(sum(on) / len(on), 4) if on else "" for column, on in above.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six concepts; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world = World()
    rows = measure(world, "thing", CONCEPT_NAMES[::6] if args.quick else CONCEPT_NAMES)
    rows += measure(world, "style", STYLE_NAMES[:1] if args.quick else STYLE_NAMES)
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
{len(FORMS)} forms, a style with {len(THINGS)} subjects; synonyms: words which the gate was not told; others: all other things, or styles; captions: everyday captions without
the concept. How strongly embeddings are whitened was chosen on these prompts; the range of the automatic threshold over the concepts is given.

{table}
"""
        (RESULTS / "gate.md").write_text(text)


if __name__ == "__main__":
    main()
