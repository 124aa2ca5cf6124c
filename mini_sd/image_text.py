"""The miniature's image-text model: an image tower in the space of its text encoder, for CLIP scores and zero-shot labels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).resolve().parent / "weights" / "clip.safetensors"


def downsampling_blocks(width: int) -> nn.ModuleList:
    """Four blocks of two convolutions, each halving the resolution: (B, 3, 64, 64) -> (B, 4 * width, 4, 4)."""
    widths = (3, width, width * 2, width * 3, width * 4)
    return nn.ModuleList(
        nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(),
            nn.Conv2d(b, b, 3, padding=1, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(),
        )
        for a, b in itertools.pairwise(widths)
    )


class ImageTower(nn.Module):
    """(B, 3, H, W) in 0..1 -> features (B, dim), and the text projection that goes with them."""

    def __init__(self, dim: int, width: int = 32):
        super().__init__()
        self.blocks = downsampling_blocks(width)
        self.visual_projection = nn.Linear(width * 4 * 16, dim, bias=False)
        self.text_projection = nn.Linear(dim, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(images * 2 - 1, size=(64, 64), mode="area")
        for block in self.blocks:
            x = block(x)
        return F.normalize(self.visual_projection(x.flatten(1)), dim=-1)

    def text(self, pooled: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.text_projection(pooled), dim=-1)


def load_tower(path: Path = WEIGHTS) -> ImageTower:
    """The trained tower, in evaluation mode, in float32."""
    from safetensors.torch import load_file

    weights = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    tower = ImageTower(dim=weights["text_projection.weight"].shape[0])
    tower.load_state_dict(weights)
    return tower.eval()


class MiniatureImageText:
    """An image-text model (fmn_core.scores.clip_score.ImageTextModel) of the trained tower and a CLIP of the host."""

    name = "miniature"

    def __init__(self, clip: Any):
        self.clip, self.tower = clip, load_tower()
        self.width = self.tower.text_projection.in_features

    @torch.inference_mode()
    def images(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) in 0..1 -> features of length 1, (B, 96)."""
        return self.tower(images[..., :3].movedim(-1, 1).float().cpu().clamp(0, 1))

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> torch.Tensor:
        """Texts -> features of length 1, (N, 96)."""
        tokens = (self.clip.tokenize(text) for text in texts)
        return self.project(torch.cat([self.clip.encode_from_tokens(t, return_pooled=True)[1] for t in tokens]))

    @torch.inference_mode()
    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled outputs of the text encoder (N, 96) -> features of length 1, (N, 96)."""
        return self.tower.text(pooled.float().cpu())
