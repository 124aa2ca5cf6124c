"""Forget-Me-Not (Zhang, Wang et al., CVPRW 2024, arXiv 2303.17591, Algorithm 1), from noise alone and the bare phrase.

Defaults are those of the released configs/attn.yaml: the whole UNet, 35 steps at 2e-6. That file also has `no_real_image:
false` and `use_ti: true`: the release trains on noised pictures of the concept and names it by tokens that textual inversion
learned before. Here the loop is the release's without both, `no_real_image: true` and `use_ti: false`; see
bench.published_loop. Several concepts take turns in one training, with 35 steps for each; the release has 35 in all.

The rows of the tables differ in the rate: the released one, and on the miniature the one that bench.peers.tune chose. On
other models no rate was searched, and both rows have the released one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from bench.peers.peer_prompts import Forgotten
from bench.published_loop import published_loop


@dataclass(frozen=True)
class Settings:
    """Settings of the loop: training steps for each concept, and the learning rate."""

    steps: int = 35
    rate: float = 2e-6


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The trained weights by name; `preserve` has no effect."""
    # The loop uses a world's adapter only.
    world = SimpleNamespace(adapter=lambda: adapter)
    try:
        with published_loop(world, {c.phrase: c.kind for c in concepts}, settings.rate, settings.steps, seed=seed):
            return {n: p.detach().clone() for n, p in adapter.unet.named_parameters()}
    finally:
        adapter.unet.zero_grad()
