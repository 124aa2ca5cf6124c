"""Trains the image tower that goes with the text encoder: python -m mini_sd.train_clip (resumes from clip.ckpt).

Contrastive, as CLIP, with the shipped text encoder frozen: pictures and captions of the same concept and style come
together in one space. Only the image tower and the text projection are trained.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mini_sd import captions
from mini_sd.concepts import CONCEPTS, STYLE_NAMES, STYLES, caption_of
from mini_sd.image_text import ImageTower
from mini_sd.train_judge import augment
from mini_sd.train_unet import shipped_text_encoder
from mini_sd.training import CONFIG, Run, arguments, concept_art, generators, load_art, to_tensor
from tools import comfy_host


def contrastive_loss(tower: ImageTower, images: torch.Tensor, pooled: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss; pictures and captions of one concept and style count as the same pair."""
    logits = tower.logit_scale.exp().clamp(max=100) * tower(images) @ tower.text(pooled).T
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def pooled_texts(text: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """The end token's embedding of each caption, as CLIP pools."""
    end = captions.vocabulary().index(captions.END) + 1
    hidden = text(input_ids=rows).last_hidden_state
    return hidden[torch.arange(len(rows)), (rows == end).int().argmax(1)]


def main() -> None:
    args = arguments(__doc__, steps=600, batch=48, lr=2e-3)
    comfy_host.activate(cpu=args.device == "cpu")
    torch.manual_seed(args.seed)
    images, names, sets = load_art(args.data)
    art = concept_art(names, sets, STYLES)
    text = shipped_text_encoder().to(args.device)
    tower = ImageTower(CONFIG["text"]["hidden_size"]).to(args.device).train()
    run = Run("clip", args, {"clip": tower}, torch.optim.AdamW(tower.parameters(), lr=args.lr, weight_decay=0.02))
    while run.step < args.steps:
        gen, rng = generators(args.seed, run.step)
        draw = random.Random(args.seed * 1_000_003 + run.step)
        picked = [art[k] for k in rng.integers(0, len(art), args.batch)]
        words = [CONCEPTS[c].name if draw.random() < 0.8 else draw.choice(CONCEPTS[c].synonyms) for _, c, _ in picked]
        rows = [
            captions.encode(caption_of(w, STYLE_NAMES[s], draw.randrange(10))) for w, (_, _, s) in zip(words, picked)
        ]
        x = augment((to_tensor(images[[i for i, _, _ in picked]]) + 1) / 2, gen).to(args.device)
        key = torch.tensor([c * len(STYLES) + s for _, c, s in picked], device=args.device)
        same = (key[:, None] == key[None]).float()
        loss = contrastive_loss(tower, x, pooled_texts(text, torch.stack(rows).to(args.device)), same)
        run.descend(loss)
        if run.step % 100 == 0:
            run.log(loss=round(loss.item(), 4), accuracy=retrieval(tower, text, images, art, args))
    run.save()


@torch.no_grad()
def retrieval(tower: ImageTower, text: nn.Module, images: np.ndarray, art, args) -> float:
    """Share of the artwork whose nearest caption, among one for each concept and style, is its own."""
    tower.eval()
    rows = torch.stack([captions.encode(caption_of(CONCEPTS[c].name, STYLE_NAMES[s], 0)) for _, c, s in art])
    features = tower.text(pooled_texts(text, rows.to(args.device)))
    pictures = ((to_tensor(images[[i for i, _, _ in art]]) + 1) / 2).to(args.device)
    nearest = (tower(pictures) @ features.T).argmax(1)
    tower.train()
    return round((nearest == torch.arange(len(art), device=nearest.device)).float().mean().item(), 4)


if __name__ == "__main__":
    main()
