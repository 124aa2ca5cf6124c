"""The judge: an independent classifier of concept and style, for tests, bench and the demo report only.

It is trained on real artwork (train_judge.py), never on generated images, and nothing in the pack uses it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from mini_sd.concepts import CONCEPT_NAMES, STYLE_NAMES
from mini_sd.image_text import downsampling_blocks

WEIGHTS = Path(__file__).resolve().parent / "weights" / "judge.safetensors"
OTHER = len(CONCEPT_NAMES)  # the class of everything that is none of the concepts
CLASS_NAMES = (*CONCEPT_NAMES, "other")


class Judge(nn.Module):
    """(B, 3, 128, 128) in 0..1 -> concept logits (B, concepts + 1; the last means "none of them"), style logits (B, styles)."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.blocks = downsampling_blocks(width)
        self.concept = nn.Linear(width * 4 * 16, OTHER + 1)
        self.style = nn.Linear(width * 4 * 16, len(STYLE_NAMES))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Penultimate layer (B, 16 * 4 * width), all values from 0, from which both heads read."""
        x = F.interpolate(images * 2 - 1, size=(64, 64), mode="area")
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.dropout(self.features(images), 0.2, self.training)
        return self.concept(x), self.style(x)


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge, in evaluation mode."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.eval()


def _channels_first(images: torch.Tensor) -> torch.Tensor:
    if images.shape[-1] == 3:
        images = images.movedim(-1, 1)
    return images.float().clamp(0, 1)


@torch.inference_mode()
def classify(judge: Judge, images: torch.Tensor) -> tuple[list[str], list[str]]:
    """Names what the judge sees: (B, 128, 128, 3) or (B, 3, 128, 128) in 0..1 -> concept names, style names."""
    concept, style = judge(_channels_first(images))
    return [CLASS_NAMES[i] for i in concept.argmax(1).tolist()], [STYLE_NAMES[i] for i in style.argmax(1).tolist()]


@torch.inference_mode()
def probabilities(judge: Judge, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of both heads: (B, len(CLASS_NAMES)) over concepts, (B, len(STYLE_NAMES)) over styles; images as in classify."""
    concept, style = judge(_channels_first(images))
    return concept.softmax(1), style.softmax(1)


@torch.inference_mode()
def features(judge: Judge, images: torch.Tensor) -> torch.Tensor:
    """Penultimate layer of the judge, (B, D); images as in classify."""
    return judge.features(_channels_first(images))
