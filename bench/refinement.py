"""Whether cached queries improve on the closed form, on the miniature: python -m bench.refinement [--concepts a,b] [--json FILE]

The refinement: passes without gradients collect what every cross-attention layer is asked (its queries) while the concept's
and preserved prompts are drawn; from the closed form's factors on, Adam then moves the factors of K and V so that every layer's output
on the concept's prompts is that on the ablated prompts, and stays what it was on the others. Layers of one shape in one batch, no UNet
backward. Not in the pack: see what bench/results/refinement.md says of it. Rows: variant, templates, concept, forget_after,
synonym_after, keep_drop, style_after, drift, attacked, seconds, patch_bytes. Writes bench/results/refinement.md and refinement.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.attack import attacked
from bench.methods import concept_of, patched
from bench.queries import sampled_queries
from bench.results_page import RESULTS, machine, markdown_table
from bench.world import Evaluation, World, other_concepts
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.targets import template_pairs
from fmn_core.concepts.preserve import encode_imagined
from fmn_core.concepts.templates import everyday_captions
from fmn_core.patch.patch import Factors, ForgetPatch, kohya_name

PROMPTS, KEPT, PIXELS, QUERY_STEPS = 12, 24, 32, 4
STEPS = 150
TEMPLATES = (56, 1)
# Price of what the preserved prompts' outputs lose, price of what moves the preserved embeddings, learning rate.
VARIANTS: dict[str, tuple[float, float, float] | None] = {
    "closed form": None,
    "refined, outputs kept": (10.0, 0.0, 2e-3),
    "refined, outputs and embeddings kept": (10.0, 10.0, 2e-3),
    "refined, embeddings kept more, slower": (10.0, 100.0, 5e-4),
}
COLUMNS = (
    "variant", "templates", "concept", "forget_after", "synonym_after", "keep_drop", "style_after", "drift", "attacked", "seconds",
    "patch_bytes",
)  # fmt: skip


@dataclass
class Given:
    """What the optimisation sees: queries by (layer, prompt), (heads, n, d); contexts (P, l, dim); the preserved embeddings' moment."""

    asked: dict[tuple[str, int], torch.Tensor]
    asked_kept: dict[tuple[str, int], torch.Tensor]
    full: torch.Tensor
    ablated: torch.Tensor
    kept: torch.Tensor
    moment: torch.Tensor


def queries_of(world: World, adapter: Any, prompts: list) -> dict[tuple[str, int], torch.Tensor]:
    found: dict[tuple[str, int], list] = {}
    generator = torch.Generator().manual_seed(0)

    def receive(number: int, layer: Any, q: torch.Tensor) -> None:
        chosen = torch.randperm(q.shape[2], generator=generator)[:PIXELS]
        found.setdefault((layer.name, number), []).append(q[0][:, chosen].clone())

    sampled_queries(adapter, prompts, (4, 16, 16), receive, steps=QUERY_STEPS)
    return {key: torch.cat(parts, 1) for key, parts in found.items()}


@torch.no_grad()
def given(world: World, adapter: Any, concept: Any) -> Given:
    pairs = template_pairs([concept])
    chosen = [pairs[k % len(pairs)] for k in range(0, max(PROMPTS, len(pairs)), max(1, len(pairs) // PROMPTS))][
        :PROMPTS
    ]
    full, ablated = (adapter.encode([getattr(p, side) for p in chosen]) for side in ("full", "target"))
    captions = list(everyday_captions())
    imagined = encode_imagined(adapter, [concept])
    kept = [*adapter.encode(captions[:: max(1, len(captions) // (KEPT // 2))][: KEPT // 2]), *imagined[: KEPT // 2]]
    everything = torch.cat([p.context for p in [*adapter.encode(captions), *imagined]]).double()
    stacked = (torch.stack([p.context for p in group]) for group in (full, ablated, kept))
    world.host.load(world.model)
    return Given(
        queries_of(world, adapter, full), queries_of(world, adapter, kept), *stacked, (everything.T @ everything / len(everything)).float()
    )  # fmt: skip


def outputs(q: torch.Tensor, contexts: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of L layers alike on P prompts: q (L, P, h, n, d), contexts (P, l, dim), weights (L, h * d, dim) -> (L, P, h, n, d)."""
    heads = q.shape[2]
    k, v = (torch.einsum("plc,Loc->Lplo", contexts, w).unflatten(-1, (heads, -1)).transpose(2, 3) for w in (key, value))
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v


def loss_of(
    group: dict[str, Any], factors: list[torch.Tensor], seen: Given, prices: tuple[float, float]
) -> torch.Tensor:
    """Relative error of the concept's outputs, and of what is preserved, at these prices."""
    uk, dk, uv, dv = factors
    changes = uk @ dk, uv @ dv
    key, value = group["key"] + changes[0], group["value"] + changes[1]
    forget = (outputs(group["q"], seen.full, key, value) - group["goal"]).square().sum() / group["scale"]
    keep = (outputs(group["q_kept"], seen.kept, key, value) - group["before"]).square().sum() / group["scale_kept"]
    moved = sum(
        ((d @ seen.moment) * d).sum((1, 2)) / ((w @ seen.moment) * w).sum((1, 2))
        for d, w in zip(changes, (group["key"], group["value"]))
    )
    return forget + prices[0] * keep + prices[1] * torch.as_tensor(moved).sum()


def group_of(layers: list, weights: dict, seen: Given) -> dict[str, Any]:
    """Layers of one shape, stacked, with the outputs that are wanted of them."""
    stack = lambda asked, count: torch.stack([torch.stack([asked[x.name, p] for p in range(count)]) for x in layers])  # noqa: E731
    key, value = (torch.stack([weights[x.name, projection] for x in layers]) for projection in ("to_k", "to_v"))
    q, q_kept = stack(seen.asked, len(seen.full)), stack(seen.asked_kept, len(seen.kept))
    goal, before = outputs(q, seen.ablated, key, value), outputs(q_kept, seen.kept, key, value)
    scale = (goal - outputs(q, seen.full, key, value)).square().sum() / len(layers)
    scales = {"scale": scale, "scale_kept": before.square().sum() / len(layers)}
    return {"key": key, "value": value, "q": q, "q_kept": q_kept, "goal": goal, "before": before, **scales}


def refined(world: World, adapter: Any, patch: Any, concept: Any, prices: tuple[float, float], rate: float) -> Any:
    """The patch with factors of to_k and to_v that were moved from the closed form's on."""
    seen, factors = given(world, adapter, concept), {}
    layers = adapter.cross_attention()
    names = [(x.name, projection) for x in layers for projection in ("to_k", "to_v")]
    weights = dict(zip(names, adapter.weights(names)))
    for shape in dict.fromkeys((weights[x.name, "to_k"].shape, seen.asked[x.name, 0].shape) for x in layers):
        alike = [x for x in layers if (weights[x.name, "to_k"].shape, seen.asked[x.name, 0].shape) == shape]
        with torch.no_grad():
            group = group_of(alike, weights, seen)
        old = [patch.factors[kohya_name(x.name, "to_v")] for x in alike]
        down = torch.stack([f.down * (f.alpha / f.rank) for f in old])
        up = torch.stack([f.up for f in old])
        trained = [torch.nn.Parameter(t.clone()) for t in (torch.zeros_like(up), down, up, down)]
        optimiser = torch.optim.Adam(trained, lr=rate)
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss_of(group, trained, seen, prices).backward()
            optimiser.step()
        for number, layer in enumerate(alike):
            for projection, u, d in (("to_k", *trained[:2]), ("to_v", *trained[2:])):
                made = Factors(u[number].detach(), d[number].detach(), float(d.shape[1]))
                factors[kohya_name(layer.name, projection)] = made
    return ForgetPatch(factors, patch.concepts, patch.base, patch.settings, dict(patch.figures))


def row_of(world: World, label: str, count: int, name: str, evaluation: Evaluation) -> dict:
    adapter = world.adapter()
    started = time.perf_counter()
    with torch.inference_mode(False):
        concept = concept_of(world, adapter, name)
        concept.templates = concept.templates[:count]
        patch = forget_closed_form(adapter, [concept], ClosedFormSettings())
        if VARIANTS[label] is not None:
            *prices, rate = VARIANTS[label]
            patch = refined(world, adapter, patch, concept, tuple(prices), rate)
    seconds = round(time.perf_counter() - started, 2)
    applied = patched(world, patch)
    figures = evaluation.measure(applied.model)
    figures.pop("forget_before")
    found = {**figures, "attacked": attacked(world, name, applied.model, 2)}
    return {"variant": label, "templates": count, "concept": name, **found, "seconds": seconds, "patch_bytes": applied.patch_bytes}  # fmt: skip


def write_page(rows: list[dict]) -> None:
    (RESULTS / "refinement.json").write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")
    (RESULTS / "refinement.md").write_text(f"""# Cached queries beside the closed form

Made by `python -m bench.refinement` on {machine()}, {time.strftime("%Y-%m-%d")}. The closed form, and the same with its factors of keys and
values refined on cached queries so that the layers' outputs, not their values, act as under the ablated prompt ({STEPS} steps of Adam; {PROMPTS}
prompts of the concept, {KEPT} preserved, {PIXELS} pixels of {QUERY_STEPS} steps each). Nothing listed to be preserved; quick evaluation, 33 pictures of other concepts; attacked: mean of two
embedding searches, see bench/attack.py. seconds: of everything.

{markdown_table(rows, COLUMNS)}
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", default="zebra")
    parser.add_argument("--only", default="", help="variants whose name holds this text; writes no results page")
    parser.add_argument("--json", type=Path, help="rows that are in it already are not measured again")
    args = parser.parse_args()
    world, rows = World(), json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    done = {(r["variant"], r["templates"], r["concept"]) for r in rows}
    for name in args.concepts.split(","):
        evaluation = Evaluation(world, name, other_concepts(name), quick=True)
        for count in TEMPLATES:
            for label in VARIANTS:
                if args.only in label and (label, count, name) not in done:
                    rows.append(row_of(world, label, count, name, evaluation))
                    print(json.dumps(rows[-1]), flush=True)
                    if args.json:
                        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not args.only:
        write_page(rows)


if __name__ == "__main__":
    main()
