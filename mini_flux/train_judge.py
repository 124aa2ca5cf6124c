"""Trains the judge of scenes on composed artwork: python -m mini_flux.train_judge (resumes from out/mini_flux/judge.ckpt).

Writes judge.json: shares of right things, grounds and styles in fresh scenes, trained on and held out, as composed, and blurred and noisy.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch.nn import functional as F

from mini_flux.config import DATA, HERE
from mini_flux.judge import Judge, labels
from mini_flux.prepare_art import load_artwork
from mini_flux.scenes import Artwork, compose, random_scene
from mini_sd.training import Run, arguments, generators, to_tensor

HELD_OUT_SHARE, MEASURED = 0.1, 256
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def batch_of(artwork: Artwork, rng: np.random.Generator, count: int, unseen_share: float) -> Batch:
    """Pictures (B, 3, 128, 128) in 0..1 of random scenes, with the labels of things, grounds and styles."""
    scenes = [random_scene(artwork, rng, unseen=bool(rng.random() < unseen_share)) for _ in range(count)]
    pictures = np.stack([compose(scene, artwork, rng) for scene in scenes])
    things, grounds, styles = zip(*(labels(scene) for scene in scenes))
    return (to_tensor(pictures) + 1) / 2, torch.tensor(things), torch.tensor(grounds), torch.tensor(styles)


def augment(x: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Colour, blur and noise, as pictures of a VAE have them; nothing moves, because places are judged."""
    n = len(x)
    colour = 1 + (torch.rand(n, 3, 1, 1, generator=gen) - 0.5) * 0.12
    shift = (torch.rand(n, 3, 1, 1, generator=gen) - 0.5) * 0.06
    x = ((x - 0.5) * colour + 0.5 + shift).clamp(0, 1)
    blurred = F.interpolate(F.interpolate(x, scale_factor=0.5, mode="area"), size=x.shape[-2:], mode="bilinear")
    mix = (torch.rand(n, 1, 1, 1, generator=gen) * 1.6 - 0.6).clamp(0)
    noise = torch.randn(x.shape, generator=gen) * torch.rand(n, 1, 1, 1, generator=gen) * 0.08
    return (x * (1 - mix) + blurred * mix + noise).clamp(0, 1)


def loss_of(judge: Judge, batch: Batch) -> torch.Tensor:
    """Sum of the cross-entropies of things, grounds and styles."""
    images, things, grounds, styles = batch
    logits = judge(images)
    loss = F.cross_entropy(logits.things.flatten(0, 1), things.flatten(), label_smoothing=0.02)
    loss = loss + 0.5 * F.cross_entropy(logits.grounds.flatten(0, 1), grounds.flatten(), label_smoothing=0.02)
    return loss + 0.5 * F.cross_entropy(logits.styles, styles, label_smoothing=0.02)


@torch.no_grad()
def shares(judge: Judge, batch: Batch) -> dict[str, float]:
    """Share of pictures in which all places, both grounds, and the style are right."""
    images, things, grounds, styles = batch
    logits = judge.eval()(images)
    judge.train()
    right = {
        "things": (logits.things.argmax(-1) == things).all(1),
        "grounds": (logits.grounds.argmax(-1) == grounds).all(1),
        "style": logits.styles.argmax(-1) == styles,
    }
    return {name: round(found.float().mean().item(), 4) for name, found in right.items()}


def main() -> None:
    args = arguments(__doc__, steps=3000, batch=48, lr=2e-3, data=DATA)
    torch.manual_seed(args.seed)
    artwork, judge = load_artwork(args.data), Judge().train().to(memory_format=torch.channels_last)
    run = Run("judge", args, {"judge": judge}, torch.optim.AdamW(judge.parameters(), lr=args.lr, weight_decay=0.02))
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        # The judge has to know what the model has not seen.
        images, *rest = batch_of(artwork, rng, args.batch, HELD_OUT_SHARE)
        images = augment(images, gen).to(memory_format=torch.channels_last)
        with torch.autocast(args.device, torch.bfloat16):
            loss = loss_of(judge, (images, *rest))
        run.step_on(loss)
    judge.load_state_dict(run.emas["judge"].shadow)
    figures = {}
    for name, share in (("trained on", 0.0), ("held out", 1.0)):
        images, *rest = batch_of(artwork, np.random.default_rng(987_654), MEASURED, share)
        figures[name] = shares(judge, (images, *rest))
        figures[f"{name}, blurred and noisy"] = shares(
            judge, (augment(images, torch.Generator().manual_seed(1)), *rest)
        )
    (HERE / "judge.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
