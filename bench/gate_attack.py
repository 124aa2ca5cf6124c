"""Attacks on gated patches, on the miniature: python -m bench.gate_attack [--quick] [--json FILE]

Rows: start, steps, evades, untouched, acted, seen. The attacker knows the untouched model and the gate, has pictures of
the concept, and searches an embedding on the untouched model, because that model draws where the gate stays shut. The
search starts at the concept's name or at a look-alike's, with the steps of bench/attack.py or four times as many.
evades: the search also avoids prompts on which the gate acts. untouched: share of pictures in which the judge sees the
concept under the embedding without the patch; acted: share of those prompts on which the gate acts; seen: share that
shows the concept behind the gate. Writes bench/results/gate_attack.md (not with --quick).
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

from bench.attack import PICTURES, SEARCH_BATCH, SEARCH_STEPS, reference_ask, sample_with_embedding, trial_ask
from bench.concept_bench.concepts import MINIATURE, load_list
from bench.methods import closed_form, concept_of, gate_function
from bench.picture_figures import share
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
SEARCH_LENGTHS = (SEARCH_STEPS, 4 * SEARCH_STEPS)
SEED, PER_STYLE = 9500, 2
# Weight of the gate's similarity above threshold - MARGIN; the denoising loss is about 0.3.
EVADING_WEIGHT, MARGIN = 3.0, 0.1


@dataclass
class GatedConcept:
    """A concept's patch behind its gate.

    Parameters
    ----------
    gate
        The ConceptGate, for a search to evade.
    threshold
        The gate's automatic threshold.
    apply
        Puts the gated patch on conditionings, see bench.methods.gate_function.
    """

    concept: str
    gate: Any
    threshold: float
    apply: Any

    def similarity(self, context: torch.Tensor) -> torch.Tensor:
        """Cosine of one chunk (77, dim) as ConceptGate.cosine computes it, but with gradients."""
        return (self.gate.background.units(context[-1:].cpu()) @ self.gate.directions.T).amax()


def gated_concept(world: World, concept: str) -> GatedConcept:
    """The default's patch of a concept behind its gate."""
    with closed_form(lambda _: [])(world, concept) as applied:
        adapter = world.adapter()
        gate = ConceptGate(adapter, [concept_of(world, adapter, concept)])
        return GatedConcept(concept, gate, gate.threshold, gate_function(world, applied.patch))


def evading_inverter(inverter_class: type, gated: GatedConcept) -> type:
    """Subclass of an inverter whose loss also penalises the gate's similarity to the encoded prompt."""

    class EvadingInverter(inverter_class):
        def encoded(self, template: str) -> Any:
            self.prompt = super().encoded(template)
            return self.prompt

        def loss(self) -> torch.Tensor:
            loss = super().loss()
            excess = gated.similarity(self.prompt.context) - (gated.threshold - MARGIN)
            return loss + EVADING_WEIGHT * excess.clamp_min(0).to(loss)

    return EvadingInverter


def search_past_gate(world: World, gated: GatedConcept, start: str, steps: int, evades: bool) -> Any:
    """The learned embedding of a search on the untouched model, with as many vectors as the name has tokens."""
    adapter = world.adapter()
    words = gated.concept if start == "name" else load_list(MINIATURE)[gated.concept].neighbours[0]
    count = max(map(len, adapter.phrase_tokens(gated.concept).values()))
    budget = Budget(steps=steps, batch=SEARCH_BATCH, tokens=count, seed=SEED)
    settings = attack_settings(adapter, words, budget)
    with torch.inference_mode(False), adapter.ready_for_gradients(text=True):
        latents = adapter.encode_images(world.sample(reference_ask(gated.concept, SEED)).clone(), world.vae)
        inverter_class = evading_inverter(Inverter, gated) if evades else Inverter
        references = References(latents)
        inverter = inverter_class(adapter, references, list(default_templates("object")), settings, None)
        for _ in range(steps):
            inverter.step()
    return {name: v.detach().clone() for name, v in inverter.embedding.items()}


def row_of(world: World, gated: GatedConcept, start: str, steps: int, evades: bool) -> dict[str, Any]:
    """The row of one search."""
    embedding = search_past_gate(world, gated, start, steps, evades)
    ask = trial_ask(gated.concept, PLACEHOLDER, PER_STYLE, SEED + 500)
    encoded = world.adapter().encode(ask.prompts, [embedding] * len(ask.prompts))
    acted = [float(gated.similarity(p.context)) > gated.threshold for p in encoded]

    def seen(gate: Any) -> float:
        images = sample_with_embedding(world, world.model, ask, embedding, gate)
        return share(world.seen(images)[0], ask.concepts)

    figures = {"untouched": seen(None), "acted": sum(acted) / len(acted), "seen": seen(gated.apply)}
    return {
        "concept": gated.concept,
        "start": start,
        "steps": steps,
        "evades": "yes" if evades else "no",
        "pictures": len(acted),
        **figures,
    }


def summary(rows: list[dict]) -> list[dict]:
    """Means over concepts of every kind of search, and of the best search of each concept."""
    means = []
    for key in dict.fromkeys((r["start"], r["steps"], r["evades"]) for r in rows):
        same_search = [r for r in rows if (r["start"], r["steps"], r["evades"]) == key]
        shares = {c: sum(r[c] for r in same_search) / len(same_search) for c in COLUMNS[3:]}
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
        gated = gated_concept(world, concept)
        for steps, start, evades in product(
            SEARCH_LENGTHS[:1] if args.quick else SEARCH_LENGTHS, STARTS, (False, True)
        ):
            rows.append(row_of(world, gated, start, steps, evades))
            print(json.dumps(rows[-1]), flush=True)
    table = markdown_table(summary(rows), COLUMNS)
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if not args.quick:
        single_rows = markdown_table(rows, ("concept", *COLUMNS, "pictures"))
        (RESULTS / "gate_attack.md").write_text(page(table, single_rows))


def page(table: str, single_rows: str) -> str:
    """Text of the results page."""
    return f"""# Attacks on gated patches

Made by `python -m bench.gate_attack` on {machine()}, {time.strftime("%Y-%m-%d")}. The default's patch of {", ".join(CONCEPTS)}, each
behind its gate. Who attacks knows the untouched model and the gate, has {PICTURES} pictures of the concept, and searches an embedding on the untouched model, {SEARCH_BATCH}
draws a step, seed {SEED}; tried in new prompts. evades: the search is led away from what the gate acts on. untouched: the concept is seen under what was
found, without a patch; acted: the gate found the prompt; seen: the concept is seen behind the gate. Euler, 8 steps, guidance 3.

{table}

## Every search

{single_rows}
"""


if __name__ == "__main__":
    main()
