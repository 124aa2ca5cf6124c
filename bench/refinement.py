"""Refines the closed form on cached queries, on the miniature: python -m bench.refinement [--concepts a,b] [--json FILE]

Passes without gradients collect the queries of every cross-attention layer while the concept's and preserved prompts
are drawn. Adam then moves the factors of keys and values, starting at the closed form's, so that every layer's output
for the concept's prompts becomes that for the ablated prompts, and its output for the others stays. Layers of one shape
form one batch; there is no backward pass through the UNet. The pack does not use this; bench/results/refinement.md has
the figures. Rows: variant, templates, concept, forget_after, synonym_after, keep_drop, style_after, drift, attacked,
seconds, patch_bytes. Writes bench/results/refinement.md and refinement.json.
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
ADAM_STEPS = 150
TEMPLATE_COUNTS = (56, 1)
# Weight of the change of preserved prompts' outputs, weight of the movement of preserved embeddings, learning rate.
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
class LayerInputs:
    """Inputs of the cross-attention layers that the refinement works on.

    Parameters
    ----------
    queries, kept_queries
        Queries (heads, n, d) by layer and prompt, of the concept's and of the preserved prompts.
    full, ablated, kept
        Contexts (P, l, dim) of the concept's prompts, the ablated prompts and the preserved prompts.
    moment
        Second moment (dim, dim) of the preserved embeddings.
    """

    queries: dict[tuple[str, int], torch.Tensor]
    kept_queries: dict[tuple[str, int], torch.Tensor]
    full: torch.Tensor
    ablated: torch.Tensor
    kept: torch.Tensor
    moment: torch.Tensor


def queries_of(adapter: Any, prompts: list) -> dict[tuple[str, int], torch.Tensor]:
    """Queries (heads, n, d) by layer and number of the prompt, at random pixels of every sampling step."""
    parts: dict[tuple[str, int], list] = {}
    generator = torch.Generator().manual_seed(0)

    def receive(number: int, layer: Any, q: torch.Tensor) -> None:
        pixels = torch.randperm(q.shape[2], generator=generator)[:PIXELS]
        parts.setdefault((layer.name, number), []).append(q[0][:, pixels].clone())

    sampled_queries(adapter, prompts, adapter.latent_shape(), receive, steps=QUERY_STEPS)
    return {key: torch.cat(chunks, 1) for key, chunks in parts.items()}


@torch.no_grad()
def layer_inputs(world: World, adapter: Any, concept: Any) -> LayerInputs:
    """Collects the inputs for a concept."""
    pairs = template_pairs([concept])
    chosen = [pairs[k % len(pairs)] for k in range(0, max(PROMPTS, len(pairs)), max(1, len(pairs) // PROMPTS))][
        :PROMPTS
    ]
    full, ablated = (adapter.encode([getattr(p, side) for p in chosen]) for side in ("full", "target"))
    captions = list(everyday_captions())
    imagined = encode_imagined(adapter, [concept])
    kept = [*adapter.encode(captions[:: max(1, len(captions) // (KEPT // 2))][: KEPT // 2]), *imagined[: KEPT // 2]]
    preserved_rows = torch.cat([p.context for p in [*adapter.encode(captions), *imagined]]).double()
    stacked = (torch.stack([p.context for p in group]) for group in (full, ablated, kept))
    world.host.load(world.model)
    return LayerInputs(
        queries_of(adapter, full), queries_of(adapter, kept), *stacked, (preserved_rows.T @ preserved_rows / len(preserved_rows)).float()
    )  # fmt: skip


def outputs(q: torch.Tensor, contexts: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention outputs (L, P, h, n, d) of L layers of one shape for P prompts.

    Parameters
    ----------
    q
        Queries (L, P, h, n, d).
    contexts
        (P, l, dim).
    key, value
        Weights (L, h * d, dim).
    """
    heads = q.shape[2]
    k, v = (torch.einsum("plc,Loc->Lplo", contexts, w).unflatten(-1, (heads, -1)).transpose(2, 3) for w in (key, value))
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v


def loss_of(
    group: dict[str, Any], factors: list[torch.Tensor], inputs: LayerInputs, weights: tuple[float, float]
) -> torch.Tensor:
    """Relative error of the concept's outputs, plus those of preserved outputs and embeddings with their weights."""
    uk, dk, uv, dv = factors
    changes = uk @ dk, uv @ dv
    key, value = group["key"] + changes[0], group["value"] + changes[1]
    forget = (outputs(group["q"], inputs.full, key, value) - group["goal"]).square().sum() / group["scale"]
    keep = (outputs(group["q_kept"], inputs.kept, key, value) - group["before"]).square().sum() / group["scale_kept"]
    moved = sum(
        ((d @ inputs.moment) * d).sum((1, 2)) / ((w @ inputs.moment) * w).sum((1, 2))
        for d, w in zip(changes, (group["key"], group["value"]))
    )
    return forget + weights[0] * keep + weights[1] * torch.as_tensor(moved).sum()


def stack_layers(layers: list, weights: dict, inputs: LayerInputs) -> dict[str, Any]:
    """Stacked weights and queries of layers of one shape, with their target outputs."""

    def stack(queries: dict, count: int) -> torch.Tensor:
        return torch.stack([torch.stack([queries[x.name, p] for p in range(count)]) for x in layers])

    key, value = (torch.stack([weights[x.name, projection] for x in layers]) for projection in ("to_k", "to_v"))
    q, q_kept = stack(inputs.queries, len(inputs.full)), stack(inputs.kept_queries, len(inputs.kept))
    goal, before = outputs(q, inputs.ablated, key, value), outputs(q_kept, inputs.kept, key, value)
    scale = (goal - outputs(q, inputs.full, key, value)).square().sum() / len(layers)
    scales = {"scale": scale, "scale_kept": before.square().sum() / len(layers)}
    return {"key": key, "value": value, "q": q, "q_kept": q_kept, "goal": goal, "before": before, **scales}


def refine(world: World, adapter: Any, patch: Any, concept: Any, loss_weights: tuple[float, float], rate: float) -> Any:
    """The patch with refined factors of to_k and to_v, which start at the closed form's."""
    inputs, factors = layer_inputs(world, adapter, concept), {}
    layers = adapter.cross_attention()
    names = [(x.name, projection) for x in layers for projection in ("to_k", "to_v")]
    weights = dict(zip(names, adapter.weights(names)))
    for shape in dict.fromkeys((weights[x.name, "to_k"].shape, inputs.queries[x.name, 0].shape) for x in layers):
        same_shape = [x for x in layers if (weights[x.name, "to_k"].shape, inputs.queries[x.name, 0].shape) == shape]
        with torch.no_grad():
            group = stack_layers(same_shape, weights, inputs)
        solved = [patch.factors[kohya_name(x.name, "to_v")] for x in same_shape]
        down = torch.stack([f.down * (f.alpha / f.rank) for f in solved])
        up = torch.stack([f.up for f in solved])
        trained = [torch.nn.Parameter(t.clone()) for t in (torch.zeros_like(up), down, up, down)]
        optimiser = torch.optim.Adam(trained, lr=rate)
        for _ in range(ADAM_STEPS):
            optimiser.zero_grad()
            loss_of(group, trained, inputs, loss_weights).backward()
            optimiser.step()
        for number, layer in enumerate(same_shape):
            for projection, u, d in (("to_k", *trained[:2]), ("to_v", *trained[2:])):
                layer_factors = Factors(u[number].detach(), d[number].detach(), float(d.shape[1]))
                factors[kohya_name(layer.name, projection)] = layer_factors
    return ForgetPatch(factors, patch.concepts, patch.base, patch.settings, dict(patch.figures))


def row_of(world: World, label: str, count: int, name: str, evaluation: Evaluation) -> dict:
    """The row of a variant with `count` templates on one concept."""
    adapter = world.adapter()
    started = time.perf_counter()
    with torch.inference_mode(False):
        concept = concept_of(world, adapter, name)
        concept.templates = concept.templates[:count]
        patch = forget_closed_form(adapter, [concept], ClosedFormSettings())
        if VARIANTS[label] is not None:
            *loss_weights, rate = VARIANTS[label]
            patch = refine(world, adapter, patch, concept, tuple(loss_weights), rate)
    seconds = round(time.perf_counter() - started, 2)
    applied = patched(world, patch)
    figures = evaluation.measure(applied.model)
    figures.pop("forget_before")
    figures = {**figures, "attacked": attacked(world, name, applied.model, 2)}
    return {"variant": label, "templates": count, "concept": name, **figures, "seconds": seconds, "patch_bytes": applied.patch_bytes}  # fmt: skip


def write_page(rows: list[dict]) -> None:
    """Writes the results page and its figures."""
    (RESULTS / "refinement.json").write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")
    (RESULTS / "refinement.md").write_text(f"""# Cached queries beside the closed form

Made by `python -m bench.refinement` on {machine()}, {time.strftime("%Y-%m-%d")}. The closed form, and the same with its factors of keys and
values refined on cached queries so that the layers' outputs, not their values, act as under the ablated prompt ({ADAM_STEPS} steps of Adam; {PROMPTS}
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
        for count in TEMPLATE_COUNTS:
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
