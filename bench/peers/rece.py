"""RECE: Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024, arXiv 2407.12383).

UCE first; then rounds of: find in closed form the embedding that makes the edited layers act as the original ones did on the
concept, and map it to the guide. A round solves for its embeddings alone, as released: the concept's own are in the first solve only, and
later rounds can move them again. Nothing is trained. Defaults are those of the released train_object.py: 5 rounds, lambda
0.1, preserve_scale 0.1, regular_scale 1e-3, all rows of the concept's prompt, "" preserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers import uce
from bench.peers.peer_prompts import Forgotten
from bench.peers.weights import keys_and_values


@dataclass(frozen=True)
class Settings(uce.Settings):
    """`rounds`: adversarial embeddings found one after another; `regular_scale` holds them near 0."""

    ridge: float = 0.1
    rounds: int = 5
    regular_scale: float = 1e-3


def adversarial(edit: torch.Tensor, gram: torch.Tensor, regular_scale: float) -> torch.Tensor:
    """C (dim, dim) with c' = C c, the input that drives the edited layers W A to the output that c gave before (RECE, eq. 8).

    c' minimises sum |W A c' - W c|^2 + regular_scale |c'|^2: C = (regular_scale I + A^T G A)^-1 A^T G, G = `gram` = sum W^T W, A = `edit`.
    """
    system = edit.T @ gram @ edit + regular_scale * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(system, edit.T @ gram)


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The changed weights by name; `seed` is not used."""
    weights = keys_and_values(adapter)
    gram = torch.stack([w.T @ w for w in weights.values()]).sum(0)
    guide, *prompts = adapter.encode([settings.guide, *(c.phrase for c in concepts)])
    kept = uce.preserved_rows(adapter, ["", *preserve], settings)
    edit = uce.edit_of(adapter, concepts, settings, ["", *preserve])
    for _ in range(settings.rounds):
        found = adversarial(edit, gram, settings.regular_scale)
        rows = [(settings.erase_scale, p.context.double() @ found.T, guide.context) for p in prompts]
        # The targets are what the layers, as edited so far, make of the guide: W A is the weight of this round's solve.
        edit = edit @ uce.input_edit([*rows, *kept], settings.ridge)
    return {name: (w @ edit).float() for name, w in weights.items()}
