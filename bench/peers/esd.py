"""ESD: Erasing Concepts from Diffusion Models (Gandikota et al., ICCV 2023, arXiv 2303.07345).

Fine-tunes the UNet so that its prediction for the concept's prompt is the frozen model's prediction steered away from it, on x_t that the
edited model samples itself with that prompt. ESD-x trains cross-attention, ESD-u everything else. Defaults are those of the released
train-scripts/train-esd.py: 1000 iterations, Adam 1e-5, negative guidance 1, start guidance 3, 50 sampling steps. There a timestep is drawn
from the interval that ends at x_t's; here it is x_t's own. Several concepts take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.peers.denoising import output_error, partly_sampled, predicted
from bench.peers.peer_prompts import Forgotten, prompt_of
from bench.peers.weights import in_training


@dataclass(frozen=True)
class Settings:
    """`iterations` are for each concept; `template` holds the name of an object or identity."""

    cross_attention: bool = True
    iterations: int = 1000
    rate: float = 1e-5
    negative_guidance: float = 1.0
    start_guidance: float = 3.0
    sampling_steps: int = 50
    template: str = "{}"


def steered(none: torch.Tensor, named: torch.Tensor, guidance: float) -> torch.Tensor:
    """none - guidance (named - none): the same in x0, eps and v, which at one x differ by one affine map."""
    return none - guidance * (named - none)


def forget(
    adapter: Any, concepts: Sequence[Forgotten], settings: Settings, seed: int = 0, preserve: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """The trained weights by name; nothing can be listed to be preserved."""
    generator = torch.Generator().manual_seed(seed)
    empty, *prompts = adapter.encode(["", *(prompt_of(c, settings.template) for c in concepts)])
    with in_training(adapter, lambda name: (".attn2." in name) == settings.cross_attention) as weights:
        optimiser = torch.optim.Adam(weights.parameters, lr=settings.rate)
        for step in range(settings.iterations * len(prompts)):
            loss = _loss(adapter, weights, prompts[step % len(prompts)], empty, settings, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return weights.changed()


def _loss(
    adapter: Any, weights: Any, prompt: Any, empty: Any, settings: Settings, generator: torch.Generator
) -> torch.Tensor:
    steps = settings.sampling_steps
    done = int(torch.randint(steps, (1,), generator=generator))
    x, sigma = partly_sampled(adapter, prompt, empty, steps, done, settings.start_guidance, generator)
    with weights.frozen():
        named, none = predicted(adapter, x, sigma, [prompt, empty]).chunk(2)
    wanted = steered(none, named, settings.negative_guidance)
    return output_error(adapter, predicted(adapter, x, sigma, [prompt]), wanted, sigma)
