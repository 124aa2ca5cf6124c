"""Forget-Me-Not as released (Zhang, Wang et al., CVPRW 2024, arXiv 2303.17591, Algorithm 1): see bench.published_loop.

Defaults are the released ones: the whole UNet, 35 steps at 2e-6 for each concept. Several concepts take turns in one
training.
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
    """Settings of the published loop: training steps for each concept, and the learning rate."""

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
