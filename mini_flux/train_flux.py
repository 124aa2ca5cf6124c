"""Trains the transformer of the miniature FLUX: python -m mini_flux.train_flux (resumes from out/mini_flux/flux.ckpt; after train_text).

Flow matching: x_t = (1 - t) x + t e with noise e, target e - x, t logit-normal, shifted to noise as for FLUX.1. Nine captions in ten
name what is in the scene. For half of the samples the pooled vector is zero, so that the model reads both the rows and the vector.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from mini_flux.captions import caption
from mini_flux.config import DATA
from mini_flux.encode_scenes import load_scenes
from mini_flux.networks import allow_gradients, build_clip, build_flux, build_t5
from mini_flux.scenes import Scene
from mini_flux.train_text import token_rows, with_strange_word
from mini_sd.export import load_ema
from mini_sd.training import Run, arguments, generators
from tools import comfy_host

WITHOUT_POOLED = 0.5
# Of the logit of t. Words matter where little is left of a picture: above 0.9 in latents of 16 channels, which a mean of 0 draws once in
# seventy times.
TIME_MEAN, TIME_STD = 1.6, 1.2
# How much more often scenes of one thing are drawn than those of two.
ALONE = 2.0


@torch.no_grad()
def encoded(networks: dict[str, torch.nn.Module], prompts: list[str], rng: np.random.Generator | None = None):
    """Contexts (B, 48, 256) and pooled vectors (B, 128) of prompts.

    Parameters
    ----------
    rng
        In training: takes away the vectors of some prompts, and puts words that are not in the world into others.
    """
    if rng is not None:
        prompts = [with_strange_word(prompt, rng) for prompt in prompts]
    rows, tokens = token_rows(prompts)
    context, pooled = networks["t5"](rows, None)[0], networks["clip"](tokens)[3]
    if rng is not None:
        pooled = pooled * torch.from_numpy(rng.random((len(prompts), 1)) >= WITHOUT_POOLED)
    return context, pooled


def trained_text(folder: Path) -> dict[str, torch.nn.Module]:
    """The text encoders that train_text made, frozen."""
    networks = {"t5": build_t5(), "clip": build_clip()}
    for name, network in networks.items():
        network.load_state_dict(load_ema(folder / "text.ckpt", name))
        network.requires_grad_(False)
    return networks


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
    t = torch.sigmoid(TIME_MEAN + TIME_STD * torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)))
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
    args = arguments(__doc__, steps=20_000, batch=32, lr=1e-3, data=DATA)
    comfy_host.activate(cpu=args.device == "cpu")
    torch.manual_seed(args.seed)
    latents, scenes = load_scenes(args.data)
    flux = build_flux()
    allow_gradients(flux)
    networks = {"flux": flux} | trained_text(args.data)
    # A thing that stands alone is larger, and takes as many tokens to learn as two beside each other.
    share = np.array([ALONE if len(scene.things) == 1 else 1.0 for scene in scenes])
    probability = share / share.sum()
    run = Run("flux", args, {"flux": flux}, torch.optim.AdamW(flux.parameters(), lr=args.lr, weight_decay=0.01))
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        picked = rng.choice(len(scenes), args.batch, replace=False, p=probability)
        draw = random.Random(args.seed * 1_000_003 + run.step)
        with torch.autocast(args.device, torch.bfloat16):
            loss = flow_loss(networks, latents[picked].float(), [scenes[n] for n in picked], draw, rng, gen)
        run.step_on(loss)


if __name__ == "__main__":
    main()
