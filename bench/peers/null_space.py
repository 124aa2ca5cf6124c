"""SPEED: Scalable, Precise, and Efficient Concept Erasure (Li et al., ICLR 2026, arXiv 2503.07392).

Edits the values of cross-attention in closed form, within the null space of what is to be retained. The retained rows are filtered by how
far the unconstrained edit would move them (influence-based prior filtering), and rows near them are added along the direction in which a
layer changes least (directed prior augmentation). The start token and the empty prompt stay exactly as they are (invariant equality constraints).

Defaults are those of the released train_erase_null.py: values alone, the last word's row of each prompt (for nudity all rows), 10 added rows for each retained
one, singular values below 0.1 count as null, retain_scale 1, and the empty prompt as the anchor. For ten celebrities its README has
retain_scale 0.05 and no filter. The released code clusters the empty prompt's rows with k-means from random starts, here from rows evenly apart.
The threshold is for rows of CLIP-L; `relative` takes it as a share of the largest singular value, for models of other scales. `our_contexts` is no part of the release: it
gives SPEED this pack's prompts, to erase and to retain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers import uce
from bench.peers.peer_prompts import Forgotten
from bench.peers.weights import keys_and_values

CENTRES, ROUNDS = 3, 20


@dataclass(frozen=True)
class Settings:
    """Settings of SPEED.

    Parameters
    ----------
    anchor
        Prompt that the concept's last word should act like.
    added
        Rows that are added for each retained row.
    threshold
        Singular values of the retained rows' second moment below it span the null space.
    relative
        Whether the threshold is a share of the largest singular value.
    retain_scale
        Weight of keeping the weights as they are.
    filtered
        Whether retained rows that the edit would hardly move are left out.
    last_row_only
        Uses the last word's row of each prompt only, and not the rows after it.
    our_contexts
        Erases the phrase in each of fmn_core's templates, and retains fmn_core's captions and imagined words as well.
    """

    anchor: str = ""
    added: int = 10
    threshold: float = 0.1
    relative: bool = False
    retain_scale: float = 1.0
    filtered: bool = True
    last_row_only: bool = True
    our_contexts: bool = False


def centres(rows: torch.Tensor, count: int = CENTRES) -> torch.Tensor:
    """Centres (count, dim) of rows by k-means, from rows evenly apart."""
    found = rows[torch.linspace(0, len(rows) - 1, count).round().long()]
    for _ in range(ROUNDS):
        nearest = torch.cdist(rows, found).argmin(1)
        found = torch.stack([rows[nearest == n].mean(0) if (nearest == n).any() else found[n] for n in range(count)])
    return found


def retained_rows(
    weight: torch.Tensor, rows: torch.Tensor, shift: torch.Tensor, settings: Settings, generator: torch.Generator
) -> torch.Tensor:
    """The retained rows of a layer, filtered and augmented.

    Parameters
    ----------
    weight, shift
        W (out, dim), and the change that an edit without constraints would make.
    rows
        Rows (n, dim).
    """
    if settings.filtered:
        moved = (rows @ shift.T).norm(dim=1)
        rows = rows[moved >= moved.mean()]
    least = torch.linalg.svd(weight).Vh[-1:]
    noise = torch.randn(settings.added * len(rows), rows.shape[1], generator=generator, dtype=rows.dtype)
    near = rows.repeat(settings.added, 1) + noise @ least.T @ least
    moved = (near @ shift.T).norm(dim=1)
    return torch.cat([rows, near[moved >= moved.mean()]])


def edited(
    weight: torch.Tensor,
    moments: tuple[torch.Tensor, torch.Tensor],
    retained: torch.Tensor,
    kept: torch.Tensor,
    settings: Settings,
) -> torch.Tensor:
    """The edited weight (out, dim) of a layer.

    Parameters
    ----------
    moments
        Mean c c^T of the concepts' rows c, and mean a c^T with their anchors' rows a, each (dim, dim).
    retained
        Rows (n, dim) in whose null space the change is.
    kept
        Rows (m, dim) that must give exactly what they gave.
    """
    own, to_anchor = moments
    eye = torch.eye(len(own), dtype=own.dtype)
    values, vectors = torch.linalg.eigh(retained.T @ retained / len(retained))
    limit = settings.threshold * (values.max() if settings.relative else 1.0)
    null = vectors[:, values < limit]
    projector = null @ null.T
    inverse = torch.linalg.inv(own @ projector + settings.retain_scale * eye)
    constrained = kept @ projector @ inverse @ kept.T
    equality = inverse @ kept.T @ torch.linalg.pinv(constrained) @ kept @ projector
    return weight + weight @ (to_anchor - own) @ projector @ (eye - equality) @ inverse


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The changed weights by name; the seed is of the added rows."""
    generator, chosen = (
        torch.Generator().manual_seed(seed),
        uce.Settings(guide=settings.anchor, last_row_only=settings.last_row_only, our_contexts=settings.our_contexts),
    )
    empty, anchor, *prompts = adapter.encode(["", settings.anchor, *uce.erased_prompts(concepts, chosen)])
    pairs = [uce.erased_rows(adapter, prompt, anchor, chosen)[1:] for prompt in prompts]
    sources, targets = (torch.cat(rows).double() for rows in zip(*pairs))
    # A mean over concepts, as released, and not over their rows and templates.
    own, to_anchor = sources.T @ sources / len(prompts), targets.T @ sources / len(prompts)
    retained = torch.cat([k for _, k, _ in uce.preserved_rows(adapter, concepts, preserve or [""], chosen)]).double()
    kept = torch.cat([empty.context[:1], centres(empty.context[1:])]).double()
    eye, changed = torch.eye(len(own), dtype=own.dtype), {}
    for name, weight in keys_and_values(adapter).items():
        if name.endswith(".to_v.weight"):
            shift = weight @ (to_anchor - own) @ torch.linalg.inv(eye + own)
            near = retained_rows(weight, retained, shift, settings, generator)
            changed[name] = edited(weight, (own, to_anchor), near, kept, settings).float()
    return changed
