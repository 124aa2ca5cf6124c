"""Attacks on gated patches, on the miniature: python -m bench.gate_attack [--quick] [--json FILE]

Rows: start, steps, evades, untouched, acted, seen. An attacker who knows the untouched model and the gate, and has pictures of the concept,
searches an embedding on the untouched model, which is what draws where the gate stays shut: started at the concept's name or at a
look-alike's, with the budget of bench/attack.py and with four times its steps. evades: the search is also led away from what the gate acts on.
untouched: share of pictures in which the judge sees the concept under what was found, without the patch; acted: share of those prompts that
the gate found; seen: share with the concept behind the gate. Writes bench/results/gate_attack.md (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.attack import PICTURES, SEARCH_BATCH, SEARCH_STEPS, attackers_pictures, sampled_with, trials
from bench.concept_bench.concepts import MINIATURE, load_list
from bench.judged import share
from bench.methods import closed_form, concept_of, gate_of
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import World
from fmn_core.attacks.search import Budget, attack_settings
from fmn_core.compose.gate import ConceptGate
from fmn_core.concepts.templates import default_templates
from fmn_core.model.tokens import PLACEHOLDER
from fmn_core.training.inversion import Inverter
from fmn_core.training.references import References

COLUMNS = ("start", "steps", "evades", "untouched", "acted", "seen")
CONCEPTS = ("cat", "penguin", "car", "banana", "guitar", "wizard")
STARTS = ("name", "look-alike")
STEPS = (SEARCH_STEPS, 4 * SEARCH_STEPS)
SEED, PER_STYLE = 9500, 2
# Of the gate's similarity above (threshold - MARGIN), beside a denoising loss of about 0.3.
EVADING_WEIGHT, MARGIN = 3.0, 0.1


@dataclass
class Gated:
    """A concept's patch behind its gate, and the same gate for a search to look at."""

    concept: str
    gate: Any
    threshold: float
    put: Any

    def similarity(self, context: torch.Tensor) -> torch.Tensor:
        """The gate's cosine of one chunk (77, dim) with gradients, equal to ConceptGate.cosine."""
        return (self.gate.background.units(context[-1:].cpu()) @ self.gate.directions.T).amax()


def gated_patch(world: World, concept: str) -> Gated:
    with closed_form(lambda _: [])(world, concept) as applied:
        adapter = world.adapter()
        gate = ConceptGate(adapter, [concept_of(world, adapter, concept)])
        return Gated(concept, gate, gate.threshold, gate_of(world, applied.patch))


def evading(inverter_class: type, gated: Gated) -> type:
    """An inverter whose loss also penalises the similarity that the gate measures on the encoded prompt."""

    class Evading(inverter_class):
        def encoded(self, template: str) -> Any:
            self.prompt = super().encoded(template)
            return self.prompt

        def loss(self) -> torch.Tensor:
            loss = super().loss()
            above = gated.similarity(self.prompt.context) - (gated.threshold - MARGIN)
            return loss + EVADING_WEIGHT * above.clamp_min(0).to(loss)

    return Evading


def search(world: World, gated: Gated, start: str, steps: int, evades: bool) -> Any:
    """The embedding that a search on the untouched model finds, with as many vectors as the name has tokens."""
    adapter = world.adapter()
    words = gated.concept if start == "name" else load_list(MINIATURE)[gated.concept].neighbours[0]
    count = max(map(len, adapter.phrase_tokens(gated.concept).values()))
    budget = Budget(steps=steps, batch=SEARCH_BATCH, tokens=count, seed=SEED)
    settings = attack_settings(adapter, words, budget)
    with torch.inference_mode(False), adapter.ready_for_gradients(text=True):
        latents = adapter.encode_images(world.sample(attackers_pictures(gated.concept, SEED)).clone(), world.vae)
        chosen = evading(Inverter, gated) if evades else Inverter
        references = References(latents)
        inverter = chosen(adapter, references, list(default_templates("object")), settings, None)
        for _ in range(steps):
            inverter.step()
    return {name: v.detach().clone() for name, v in inverter.word.items()}


def one(world: World, gated: Gated, start: str, steps: int, evades: bool) -> dict[str, Any]:
    found = search(world, gated, start, steps, evades)
    ask = trials(gated.concept, PLACEHOLDER, PER_STYLE, SEED + 500)
    encoded = world.adapter().encode(ask.prompts, [found] * len(ask.prompts))
    acted = [float(gated.similarity(p.context)) > gated.threshold for p in encoded]

    def seen(gate: Any) -> float:
        images = sampled_with(world, world.model, ask, found, gate)
        return share(world.seen(images)[0], ask.concepts)

    figures = {"untouched": seen(None), "acted": sum(acted) / len(acted), "seen": seen(gated.put)}
    return {
        "concept": gated.concept,
        "start": start,
        "steps": steps,
        "evades": "yes" if evades else "no",
        "pictures": len(acted),
        **figures,
    }


def summary(rows: list[dict]) -> list[dict]:
    """Means over concepts of every kind of search, and of the best search that each concept was attacked with."""
    means = []
    for key in dict.fromkeys((r["start"], r["steps"], r["evades"]) for r in rows):
        part = [r for r in rows if (r["start"], r["steps"], r["evades"]) == key]
        shares = {c: sum(r[c] for r in part) / len(part) for c in COLUMNS[3:]}
        means.append({**dict(zip(COLUMNS, key)), **shares})
    best = [max((r for r in rows if r["concept"] == c), key=lambda r: r["seen"]) for c in {r["concept"] for r in rows}]
    shares = {c: sum(r[c] for r in best) / len(best) for c in COLUMNS[3:]}
    return [*means, {"start": "the best of a concept", "steps": "", "evades": "", **shares}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one concept, fewest steps; writes no results page")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    world, rows = World(steps=8), []
    for concept in CONCEPTS[:1] if args.quick else CONCEPTS:
        gated = gated_patch(world, concept)
        for steps, start, evades in product(STEPS[:1] if args.quick else STEPS, STARTS, (False, True)):
            rows.append(one(world, gated, start, steps, evades))
            print(json.dumps(rows[-1]), flush=True)
    table = markdown_table(summary(rows), COLUMNS)
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        each = markdown_table(rows, ("concept", *COLUMNS, "pictures"))
        (RESULTS / "gate_attack.md").write_text(page(table, each))


def page(table: str, each: str) -> str:
    return f"""# Attacks on gated patches

Made by `python -m bench.gate_attack` on {machine()}, {time.strftime("%Y-%m-%d")}. The default's patch of {", ".join(CONCEPTS)}, each
behind its gate. Who attacks knows the untouched model and the gate, has {PICTURES} pictures of the concept, and searches an embedding on the untouched model, {SEARCH_BATCH}
draws a step, seed {SEED}; tried in new prompts. evades: the search is led away from what the gate acts on. untouched: the concept is seen under what was
found, without a patch; acted: the gate found the prompt; seen: the concept is seen behind the gate. Euler, 8 steps, guidance 3.

{table}

## Every search

{each}
"""


if __name__ == "__main__":
    main()
