"""RECE: Reliable and Efficient Concept Erasure (Gong et al., ECCV 2024, arXiv 2407.12383).

UCE first; then rounds of: find in closed form the embedding that makes the edited layers act as the original ones did on the
concept, and map it to the guide. A round solves for its embeddings alone, as released: the concept's own are in the first solve only, and
later rounds can move them again. Nothing is trained.

Defaults are those of the released code. The first solve is UCE with its lambda of 0.5 (erase_methods/train_uce.py, whose checkpoint the
training scripts load); the rounds have lambda 0.1, preserve_scale 0.1, all rows of the concept's prompt, and "" preserved
(train_object.py). There is one round, as train_object.py and train_artists.py do by default and its README states for objects and styles
(3 rounds for nudity, 2 for other unsafe concepts; the first published version of the scripts had 5 and 10). regular_scale is 1e-3, the
README's value for styles and for objects that UCE leaves visible; for other objects it is 1e-1. The released first solve weighs preserved
prompts by max(0.1, 1 / their number); here it is preserve_scale, which is the same from ten prompts on.
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
    """Settings of RECE, besides those of UCE, which are for the first solve and, but for `ridge`, for the rounds too.

    Parameters
    ----------
    rounds
        Adversarial embeddings of each prompt, found one after another.
    round_ridge
        lambda of the rounds' solves; `ridge` is that of the first.
    regular_scale
        Holds the adversarial embeddings near 0.
    """

    rounds: int = 1
    round_ridge: float = 0.1
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
    guide, *prompts = adapter.encode([settings.guide, *uce.erased_prompts(concepts, settings)])
    kept = uce.preserved_rows(adapter, concepts, ["", *preserve], settings)
    erased = [uce.erased_rows(adapter, p, guide, settings) for p in prompts]
    edit = uce.input_edit([*erased, *kept], settings.ridge)
    for _ in range(settings.rounds):
        found = adversarial(edit, gram, settings.regular_scale)
        rows = [(settings.erase_scale, p.context.double() @ found.T, guide.context) for p in prompts]
        # The targets are what the layers, as edited so far, make of the guide: W A is the weight of this round's solve.
        edit = edit @ uce.input_edit([*rows, *kept], settings.round_ridge)
    return {name: (w @ edit).float() for name, w in weights.items()}
