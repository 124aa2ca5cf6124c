"""Trains the judge on real artwork: python -m mini_sd.train_judge (resumes from out/mini_sd/judge.ckpt).

Held out and never trained on: 15 % of the other icons (style accuracy), and the concepts as drawn by two
icon sets that are not among the styles (concept accuracy on artwork of unseen hands).
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch.nn import functional as F

from mini_sd.concepts import STYLES
from mini_sd.judge import OTHER, Judge
from mini_sd.training import Run, arguments, concept_art, generators, load_art, to_tensor

UNSEEN_SETS = {"noto-v1": "noto-v1", "fxemoji": "fxemoji"}
CONCEPT_SHARE, HELD_OUT_SHARE = 0.6, 0.15


def augment(x: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Mirror, shift, scale, turn, colour, blur and noise; (B, 3, H, W) in 0..1, white beyond the border."""
    n = len(x)

    def uniform(low, high):
        return torch.rand(n, generator=gen) * (high - low) + low

    angle, scale, mirror = uniform(-0.2, 0.2), uniform(0.85, 1.2), (uniform(0, 1) < 0.5).float() * 2 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * scale * mirror, -angle.sin() * scale
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * scale * mirror, angle.cos() * scale
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.12, 0.12), uniform(-0.12, 0.12)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = 1 - F.grid_sample(1 - x, grid, align_corners=False)
    colour = 1 + (torch.rand(n, 3, 1, 1, generator=gen) - 0.5) * 0.3
    shift = (torch.rand(n, 3, 1, 1, generator=gen) - 0.5) * 0.16
    x = ((x - 0.5) * colour + 0.5 + shift).clamp(0, 1)
    blurred = F.interpolate(F.interpolate(x, scale_factor=0.25, mode="area"), size=x.shape[-2:], mode="bilinear")
    mix = uniform(-0.7, 0.9).clamp(0).view(-1, 1, 1, 1)
    noise = torch.randn(x.shape, generator=gen) * uniform(0, 0.10).view(-1, 1, 1, 1)
    return (x * (1 - mix) + blurred * mix + noise).clamp(0, 1)


def split(names: np.ndarray, sets: np.ndarray, art) -> tuple[np.ndarray, np.ndarray]:
    """Other icons of the four styles: (training indices, held-out indices), split by icon name over all sets."""
    taken = {names[i] for i, _, _ in art}
    other = np.flatnonzero(np.isin(sets, list(STYLES.values())) & ~np.isin(names, list(taken)))
    unique = np.unique(names[other])
    held = set(np.random.default_rng(0).choice(unique, int(len(unique) * HELD_OUT_SHARE), replace=False))
    is_held = np.array([names[i] in held for i in other])
    # Look-alikes under other names (a dog's whole body, a tangerine) would teach that a concept is "other".
    similar = {w for n in taken for w in n.split("-") if w not in ("red", "green", "face", "computer", "person")}
    clean = np.array([not similar & set(names[i].split("-")) for i in other])
    return other[~is_held & clean], other[is_held & clean]


@torch.no_grad()
def accuracy(judge: Judge, x: torch.Tensor, labels: torch.Tensor, head: int) -> float:
    judge.eval()
    predicted = torch.cat([judge(part)[head] for part in x.split(64)]).argmax(1)
    judge.train()
    return round((predicted == labels).float().mean().item(), 4)


def main() -> None:
    args = arguments(__doc__, steps=1400, batch=48, lr=2e-3)
    torch.manual_seed(args.seed)
    images, names, sets = load_art(args.data)
    art = concept_art(names, sets, STYLES)
    train_other, held_other = split(names, sets, art)
    style_of = {s: k for k, s in enumerate(STYLES.values())}
    judge = Judge().to(args.device).train()
    run = Run("judge", args, {"judge": judge}, torch.optim.AdamW(judge.parameters(), lr=args.lr, weight_decay=0.02))
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        n = int(args.batch * CONCEPT_SHARE)
        picked = [art[k] for k in rng.integers(0, len(art), n)]
        others = rng.choice(train_other, args.batch - n)
        index = [i for i, _, _ in picked] + others.tolist()
        concept = torch.tensor([c for _, c, _ in picked] + [OTHER] * len(others))
        style = torch.tensor([s for _, _, s in picked] + [style_of[sets[i]] for i in others])
        x = augment((to_tensor(images[index]) + 1) / 2, gen).to(args.device)
        concept_logits, style_logits = judge(x)
        loss = F.cross_entropy(concept_logits, concept.to(x.device), label_smoothing=0.05)
        run.descend(loss + F.cross_entropy(style_logits, style.to(x.device), label_smoothing=0.05))
        if run.step % 100 == 0:
            run.log(loss=round(loss.item(), 4))
    run.save()
    judge.load_state_dict(run.emas["judge"].shadow)
    report(judge, images, names, sets, art, held_other, args)


def report(judge, images, names, sets, art, held_other, args) -> None:
    """Measures the held-out accuracies and writes out/mini_sd/judge.json."""

    def tensor(index):
        return ((to_tensor(images[index]) + 1) / 2).to(args.device)

    def labels(values):
        return torch.tensor(values).to(args.device)

    own = [i for i, _, _ in art]
    fresh = augment(tensor(own * 8).cpu(), torch.Generator().manual_seed(987_654)).to(args.device)
    style_of = {s: k for k, s in enumerate(STYLES.values())}
    unseen = concept_art(names, sets, UNSEEN_SETS)
    figures = {
        "concept_on_training_art": accuracy(judge, tensor(own), labels([c for _, c, _ in art]), 0),
        "concept_on_fresh_augmentations": accuracy(judge, fresh, labels([c for _, c, _ in art] * 8), 0),
        "style_on_fresh_augmentations": accuracy(judge, fresh, labels([s for _, _, s in art] * 8), 1),
        "style_on_held_out_icons": accuracy(
            judge, tensor(held_other), labels([style_of[sets[i]] for i in held_other]), 1
        ),
        "other_on_held_out_icons": accuracy(judge, tensor(held_other), labels([OTHER] * len(held_other)), 0),
        "concept_in_unseen_icon_sets": accuracy(
            judge, tensor([i for i, _, _ in unseen]), labels([c for _, c, _ in unseen]), 0
        ),
        "chance_concept": round(1 / (OTHER + 1), 4),
        "held_out_icons": len(held_other),
        "unseen_set_icons": len(unseen),
    }
    (args.data / "judge.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
