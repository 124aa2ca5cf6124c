"""Trains the VAE of the miniature FLUX on scenes: python -m mini_flux.train_vae [--steps N] (resumes from out/mini_flux/vae.ckpt).

Crops of 64 px, mostly of things, for the first two thirds, whole pictures after; the loss is that of mini_sd.train_vae.
"""

from __future__ import annotations

import numpy as np
import torch

from mini_flux.config import DATA
from mini_flux.networks import build_vae
from mini_flux.prepare_art import load_artwork
from mini_flux.scenes import Artwork, compose, random_scene
from mini_sd.train_vae import CROP, evaluate, vae_loss
from mini_sd.training import Run, arguments, generators, to_tensor
from tools import comfy_host

CANDIDATES = 3


def pictures(artwork: Artwork, rng: np.random.Generator, count: int, crop: bool) -> torch.Tensor:
    """Pictures (B, 3, H, W) in -1..1 of random scenes, or crops of them that begin at multiples of 8 px."""
    batch = []
    for _ in range(count):
        picture = compose(random_scene(artwork, rng), artwork, rng)
        batch.append(_busiest_crop(picture, rng) if crop else picture)
    return to_tensor(np.stack(batch))


def _busiest_crop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of a few crops at random the one that varies most, because grounds teach little."""
    corners = 8 * rng.integers(0, (len(picture) - CROP) // 8 + 1, (CANDIDATES, 2))
    crops = [picture[y : y + CROP, x : x + CROP] for y, x in corners]
    return max(crops, key=lambda crop: float(crop.std()))


def main() -> None:
    args = arguments(__doc__, steps=8000, batch=8, lr=1.5e-3, data=DATA)
    comfy_host.activate(cpu=args.device == "cpu")
    torch.manual_seed(args.seed)
    artwork, vae = load_artwork(args.data), build_vae().to(args.device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run("vae", args, {"vae": vae}, optimiser)
    probe = pictures(artwork, np.random.default_rng(1), 32, False).to(args.device, memory_format=torch.channels_last)
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        crop = run.step < args.steps * 2 // 3
        batch = pictures(artwork, rng, args.batch if crop else max(2, args.batch // 2), crop)
        loss, _ = vae_loss(vae, batch.to(args.device, memory_format=torch.channels_last), gen)
        run.descend(loss)
        if run.step % 50 == 0:
            run.log(loss=round(loss.item(), 4))
        if run.step % 250 == 0 or run.step == args.steps:
            current = {k: v.clone() for k, v in vae.state_dict().items()}
            vae.load_state_dict(run.emas["vae"].shadow)
            run.log(**evaluate(vae, probe))
            vae.load_state_dict(current)
            run.save()


if __name__ == "__main__":
    main()
