"""UCE: Unified Concept Editing in Diffusion Models (Gandikota et al., WACV 2024, arXiv 2308.14761), equation 7.

Edits keys and values of cross-attention in closed form: the concept's prompt acts like the guide's prompt, and
preserved prompts act like themselves. Nothing is trained.

Defaults are those of the code released with the paper (train-scripts/train_erase.py): erase_scale 1, preserve_scale
0.1, lambda 0.5, the rows from the last word on, guide "" for all concepts, and all rows of preserved prompts.
`last_row_only` is the later release (trainscripts/uce_sd_erase.py), with preserve_scale 1. `our_contexts` is no part of
any release: it gives UCE this pack's prompts, so that a difference from the closed form is one of its targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers.peer_prompts import Forgotten, default_preserve_set, phrase_in_templates
from bench.peers.weights import keys_and_values
from fmn_core.model.tokens import first_end


@dataclass(frozen=True)
class Settings:
    """Settings of UCE.

    Parameters
    ----------
    erase_scale, preserve_scale
        Weights of the concepts' and of the preserved rows.
    ridge
        lambda of the paper.
    guide
        Prompt that the concept's prompt should act like.
    last_row_only
        Uses the last word's row only, and not the rows after it.
    our_contexts
        Erases the phrase in each of fmn_core's templates, and preserves fmn_core's captions and imagined words as well.
    """

    erase_scale: float = 1.0
    preserve_scale: float = 0.1
    ridge: float = 0.5
    guide: str = ""
    last_row_only: bool = False
    our_contexts: bool = False


Rows = tuple[float, torch.Tensor, torch.Tensor]  # weight, sources (n, dim), targets (n, dim)


def input_edit(rows: Sequence[Rows], ridge: float) -> torch.Tensor:
    """The edit A (dim, dim), float64: every projection W becomes W' = W A.

    Notes
    -----
    W' minimises sum_i w_i |W' c_i - W t_i|^2 + ridge |W' - W|^2 over rows of sources c and targets t.
    """
    dim = rows[0][1].shape[1]
    system = right_side = ridge * torch.eye(dim, dtype=torch.float64)
    for weight, sources, targets in rows:
        s, t = sources.double().cpu(), targets.double().cpu()
        system, right_side = system + weight * s.T @ s, right_side + weight * t.T @ s
    return torch.linalg.solve(system, right_side.T).T


def last_word(adapter: Any, prompt: Any) -> int:
    """Number of the row of a prompt's last word, or of the start token in an empty prompt."""
    return first_end(next(iter(prompt.tokens.values()))[0], adapter.vocabulary) - 1


def erased_rows(adapter: Any, prompt: Any, guide: Any, settings: Settings) -> Rows:
    """Rows of the concept's prompt from its last word on, with the guide's as their targets."""
    a, b = last_word(adapter, prompt), last_word(adapter, guide)
    count = 1 if settings.last_row_only else len(prompt.context) - max(a, b)
    return settings.erase_scale, prompt.context[a : a + count], guide.context[b : b + count]


def erased_prompts(concepts: Sequence[Forgotten], settings: Settings) -> list[str]:
    """Prompts to erase: the phrases, or the phrases in all their templates."""
    return [prompt for c in concepts for prompt in (phrase_in_templates(c) if settings.our_contexts else [c.phrase])]


def preserved_rows(
    adapter: Any, concepts: Sequence[Forgotten], preserve: Sequence[str], settings: Settings
) -> list[Rows]:
    """Rows of the preserved prompts, which are their own targets."""
    prompts = adapter.encode(list(preserve))
    if settings.our_contexts:
        prompts = [*prompts, *default_preserve_set(adapter, concepts, preserve)]
    kept = [p.context[last_word(adapter, p)][None] if settings.last_row_only else p.context for p in prompts]
    return [(settings.preserve_scale, k, k) for k in kept]


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The changed weights by name; `seed` has no effect."""
    guide, *prompts = adapter.encode([settings.guide, *erased_prompts(concepts, settings)])
    erased = [erased_rows(adapter, p, guide, settings) for p in prompts]
    edit = input_edit(erased + preserved_rows(adapter, concepts, preserve, settings), settings.ridge)
    return {name: (w @ edit).float() for name, w in keys_and_values(adapter).items()}
