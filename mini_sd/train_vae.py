"""Trains the miniature's VAE: python -m mini_sd.train_vae [--steps N] (resumes from out/mini_sd/vae.ckpt).

Loss: L1 + 0.5 MSE + 1e-6 KL; 64 px crops for the first two thirds, whole 128 px images after.
"""

from __future__ import annotations

import numpy as np
import torch

from mini_sd.concepts import STYLES
from mini_sd.training import Run, arguments, concept_art, generators, load_art, to_tensor
from tools import comfy_host

CROP, KL_WEIGHT = 64, 1e-6


def sample_batch(images: np.ndarray, concepts: np.ndarray, others: np.ndarray, rng, size: int, crop: bool):
    """Half concept art, half other art of the same icon sets; mirrored at random, crops aligned to 8 px."""
    n = size // 2
    index = np.concatenate([rng.choice(concepts, size - n), rng.choice(others, n)])
    batch = []
    for i in index:
        image = images[i][:, ::-1] if rng.random() < 0.5 else images[i]
        if crop:
            y, x = (8 * rng.integers(0, (image.shape[0] - CROP) // 8 + 1) for _ in range(2))
            image = image[y : y + CROP, x : x + CROP]
        else:
            dy, dx = rng.integers(-6, 7, 2)
            image = np.roll(image, (dy, dx), (0, 1))
        batch.append(image)
    return to_tensor(np.stack(batch))


def vae_loss(vae, x: torch.Tensor, gen: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the loss and the reconstruction."""
    mean, logvar = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    z = mean + torch.randn(mean.shape, generator=gen).to(mean) * (0.5 * logvar).exp()
    y = vae.decoder(vae.post_quant_conv(z))
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
    return (y - x).abs().mean() + 0.5 * ((y - x) ** 2).mean() + KL_WEIGHT * kl, y


@torch.no_grad()
def evaluate(vae, x: torch.Tensor) -> dict[str, float]:
    """PSNR in dB of the reconstruction from the latent mean, and the latents' standard deviation."""
    mean, _ = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)
    y = vae.decoder(vae.post_quant_conv(mean)).clamp(-1, 1)
    mse = ((y - x) ** 2).mean((1, 2, 3)) / 4
    return {"psnr": round((-10 * mse.log10()).mean().item(), 3), "latent_std": round(mean.std().item(), 4)}


def main() -> None:
    args = arguments(__doc__, steps=5200, batch=8, lr=1.5e-3)
    comfy_host.activate(cpu=args.device == "cpu")
    from mini_sd.networks import build_vae

    torch.manual_seed(args.seed)
    images, names, sets = load_art(args.data)
    concepts = np.array([i for i, _, _ in concept_art(names, sets, STYLES)])
    others = np.flatnonzero(np.isin(sets, list(STYLES.values())))
    vae = build_vae().to(args.device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run("vae", args, {"vae": vae}, optimiser)
    probe = to_tensor(images[concepts[::4]]).to(args.device, memory_format=torch.channels_last)
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        crop = run.step < args.steps * 2 // 3
        batch = sample_batch(images, concepts, others, rng, args.batch if crop else max(2, args.batch // 2), crop)
        loss, _ = vae_loss(vae, batch.to(args.device, memory_format=torch.channels_last), gen)
        run.descend(loss)
        if run.step % 50 == 0:
            run.log(loss=round(loss.item(), 4))
        if run.step % 500 == 0 or run.step == args.steps:
            shadow, current = run.emas["vae"].shadow, {k: v.clone() for k, v in vae.state_dict().items()}
            vae.load_state_dict(shadow)
            run.log(**evaluate(vae, probe))
            vae.load_state_dict(current)
            run.save()


if __name__ == "__main__":
    main()
