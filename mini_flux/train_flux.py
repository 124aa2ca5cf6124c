"""Trains transformer and text encoders of the miniature FLUX together: python -m mini_flux.train_flux (resumes from out/mini_flux/flux.ckpt).

Flow matching: x_t = (1 - t) x + t e with noise e, target e - x, t logit-normal, as for FLUX.1. Nine captions in ten name what is in the scene. For
half of the samples the pooled vector is zero, so that the model reads both the rows and the vector.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from mini_flux import text
from mini_flux.captions import caption
from mini_flux.config import DATA
from mini_flux.encode_scenes import load_scenes
from mini_flux.networks import allow_gradients, build_clip, build_flux, build_t5
from mini_flux.scenes import Scene
from mini_sd.training import Run, arguments, generators
from tools import comfy_host

WITHOUT_POOLED, UNKNOWN_WORD_SHARE = 0.5, 0.1


def encoded(networks: dict[str, torch.nn.Module], prompts: list[str], rng: np.random.Generator | None = None):
    """Contexts (B, 48, 256) and pooled vectors (B, 128) of prompts.

    Parameters
    ----------
    rng
        In training: takes away the vectors of some prompts, and known words of others, as words outside the world are unknown.
    """
    rows = torch.stack([text.t5().rows(prompt) for prompt in prompts])
    tokens = torch.stack([text.clip().rows(prompt) for prompt in prompts])
    if rng is not None:
        for n in np.flatnonzero(rng.random(len(prompts)) < UNKNOWN_WORD_SHARE):
            words = int((rows[n] != text.t5().row_of[text.t5().pad]).sum()) - 1
            if words > 0:
                rows[n, int(rng.integers(words))] = text.UNKNOWN
    context, pooled = networks["t5"](rows, None)[0], networks["clip"](tokens)[3]
    if rng is not None:
        pooled = pooled * torch.from_numpy(rng.random((len(prompts), 1)) >= WITHOUT_POOLED)
    return context, pooled


def flow_loss(
    networks: dict[str, torch.nn.Module],
    latents: torch.Tensor,
    scenes: list[Scene],
    draw: random.Random,
    rng: np.random.Generator,
    gen: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted flow on one batch of latents (B, 16, h, w)."""
    context, pooled = encoded(networks, [caption(scene, draw) for scene in scenes], rng)
    noise = torch.randn(latents.shape, generator=gen)
    # Stratified over the batch.
    uniform = (torch.arange(len(latents)) + torch.rand(len(latents), generator=gen)) / len(latents)
    t = torch.sigmoid(torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)))
    share = t[:, None, None, None]
    options = {"optimized_attention_override": _attention_in_float32}
    flow = networks["flux"](
        (1 - share) * latents + share * noise, t, context=context, y=pooled, transformer_options=options
    )
    return ((flow.float() - (noise - latents)) ** 2).mean()


def _attention_in_float32(attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args, **kwargs):
    """The host's attention outside autocast, as its backward pass on a CPU is six times slower in bfloat16."""
    with torch.autocast(q.device.type, enabled=False):
        return attention(q.float(), k.float(), v.float(), *args, **kwargs)


def main() -> None:
    args = arguments(__doc__, steps=6500, batch=32, lr=1e-3, data=DATA)
    comfy_host.activate(cpu=args.device == "cpu")
    torch.manual_seed(args.seed)
    latents, scenes = load_scenes(args.data)
    networks = {"flux": build_flux(), "t5": build_t5(), "clip": build_clip()}
    allow_gradients(*networks.values())
    parameters = [p for network in networks.values() for p in network.parameters()]
    run = Run("flux", args, networks, torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01))
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        picked = rng.choice(len(scenes), args.batch, replace=False)
        draw = random.Random(args.seed * 1_000_003 + run.step)
        with torch.autocast(args.device, torch.bfloat16):
            loss = flow_loss(networks, latents[picked].float(), [scenes[n] for n in picked], draw, rng, gen)
        run.step_on(loss)


if __name__ == "__main__":
    main()
