"""Which prompts a gated patch acts on, on the miniature: python -m bench.gate [--quick] [--json FILE]

Rows: threshold, named, synonyms, others, captions: share of prompts with a similarity above the threshold, over every concept gated
alone. named: the concept in 20 forms; synonyms: its other words; others: every other concept; captions: everyday captions without the
concept. The first row is the automatic threshold. Writes bench/results/gate.md (not with --quick). Encodes text only; no picture is made.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.forget import RESULTS, machine, markdown_table
from bench.methods import concept_of
from bench.world import World, other_concepts
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, PLAIN_TEMPLATES, STYLED_TEMPLATES, with_article

COLUMNS = ("threshold", "named", "synonyms", "others", "captions")
THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STYLE = "noto"


class Prompts:
    """Every word of the miniature in every form, encoded once."""

    def __init__(self, world: World):
        self.adapter = world.adapter()
        self.captions = self.adapter.encode(list(world.core("templates").everyday_captions()))
        self._encoded: dict[str, list[Any]] = {}

    def of(self, words: str) -> list[Any]:
        if words not in self._encoded:
            forms = [t.format(x=with_article(words), s=STYLE) for t in (*STYLED_TEMPLATES, *PLAIN_TEMPLATES)]
            self._encoded[words] = self.adapter.encode(forms)
        return self._encoded[words]


def similarities(gate: Any, prompts: Prompts, name: str) -> dict[str, list[float]]:
    def found(words: Sequence[str]) -> list[float]:
        return [gate.similarity(p.context, p.tokens) for w in words for p in prompts.of(w)]

    without = [p for p in prompts.captions if gate.overlap(p.tokens) < 1]
    return {
        "named": found([name]),
        "synonyms": found(BY_NAME[name].synonyms),
        "others": found(other_concepts(name)),
        "captions": [gate.similarity(p.context, p.tokens) for p in without],
    }


def measure(world: World, names: Sequence[str]) -> list[dict]:
    prompts, settings = Prompts(world), world.core("gate").GateSettings()
    found = []
    for name in names:
        gate = world.core("gate").ConceptGate(prompts.adapter, [concept_of(world, prompts.adapter, name)])
        found.append((settings.resolved(gate).threshold, similarities(gate, prompts, name)))
    chosen = [t for t, _ in found]
    rows = [{"threshold": f"automatic, {min(chosen):.2f}-{max(chosen):.2f}", **shares(found)}]
    return rows + [{"threshold": f"{t:g}", **shares([(t, s) for _, s in found])} for t in THRESHOLDS]


def shares(found: list[tuple[float, dict[str, list[float]]]]) -> dict[str, float]:
    """Share of prompts above the threshold of their gate."""
    above = {column: [v > t for t, values in found for v in values[column]] for column in COLUMNS[1:]}
    return {column: round(sum(on) / len(on), 4) for column, on in above.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six concepts; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = measure(World(), CONCEPT_NAMES[::6] if args.quick else CONCEPT_NAMES)
    table = markdown_table(
        [{k: f"{v:.1%}" if isinstance(v, float) else v for k, v in r.items()} for r in rows], COLUMNS
    )
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        text = f"""# Which prompts a gated patch acts on

Made by `python -m bench.gate` on {machine()}, {time.strftime("%Y-%m-%d")}. Share of prompts whose similarity is above the threshold, every
concept of the miniature gated alone: the concept in 20 forms, its synonyms (which the gate was not told), the other concepts, everyday captions without
it. The rule of the automatic threshold was chosen on these prompts, and its range over the concepts is given. Of the other concepts, "mouse" and
"computer mouse" share a word.

{table}
"""
        (RESULTS / "gate.md").write_text(text)


if __name__ == "__main__":
    main()
