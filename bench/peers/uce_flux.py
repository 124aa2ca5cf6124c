"""UCE for FLUX.1, as its repository has it (trainscripts/uce_flux_edit.py, called experimental there): the last word's row, and the pooled vector.

Edits the projections of T5's rows and of CLIP's pooled vector in closed form, each by a system of its own. Settings are those of
uce.Settings with `last_row_only`, and preserve_scale 1, as in the later release.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.peers.peer_prompts import Forgotten
from bench.peers.uce import Settings, erased_prompts, input_edit
from fmn_core.model.entries import CONTEXT
from fmn_core.model.tokens import first_end


def last_row(adapter: Any, prompt: Any) -> torch.Tensor:
    """The row (1, dim) of a prompt's last word, or the first row of an empty prompt."""
    end = first_end(next(iter(prompt.tokens.values()))[0], adapter.vocabulary)
    return prompt.context[max(0, end - 1)][None]


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The changed weights by name; `seed` has no effect."""
    erased, kept = adapter.encode(erased_prompts(concepts, settings)), adapter.encode(list(preserve))
    [guide] = adapter.encode([settings.guide])
    edits = []
    for read in (lambda prompt: last_row(adapter, prompt), lambda prompt: prompt.pooled):
        rows = [(settings.erase_scale, read(p), read(guide)) for p in erased]
        rows += [(settings.preserve_scale, read(p), read(p)) for p in kept]
        edits.append(input_edit(rows, settings.ridge))
    entries = adapter.text_entries()
    weights = adapter.weights([entry.name for entry in entries])
    return {
        f"{entry.path}.weight": (weight.double() @ edits[entry.reads != CONTEXT]).float()
        for entry, weight in zip(entries, weights)
    }
