"""CLIP score and zero-shot labels over any image-text model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from ..concepts.templates import check_templates, fill_template
from ..errors import ForgetError

TEMPLATE = "a picture of {}"


class ImageTextModel(Protocol):
    """Pictures and texts in one space, as CLIP has them. Features are of length 1, float32 on the CPU."""

    name: str

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) in 0..1 -> (B, D)."""
        ...

    def texts(self, texts: list[str]) -> torch.Tensor:
        """N texts -> (N, D)."""
        ...


def similarities(model: ImageTextModel, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """The cosine of each picture with its own prompt, (B,) in -1..1; one prompt is that of every picture.

    Raises ForgetError without pictures, and on another number of prompts than one or one a picture.
    """
    if len(images) == 0:
        raise ForgetError("Expected at least one picture, got none. Connect pictures.")
    if len(prompts) not in (1, len(images)):
        raise ForgetError(
            f"Expected one prompt, or one for each of {len(images)} pictures, got {len(prompts)}. Write one line a picture."
        )
    return (model.images(images) * model.texts(list(prompts))).sum(1)


def clip_score(model: ImageTextModel, images: torch.Tensor, prompts: Sequence[str]) -> float:
    """Mean cosine of pictures (B, H, W, 3) in 0..1 with their prompts, -1..1; see similarities.

    Source: Hessel et al., CLIPScore, without its factor of 2.5.
    """
    return float(similarities(model, images, prompts).mean())


def zero_shot(
    model: ImageTextModel, images: torch.Tensor, labels: Sequence[str], template: str = TEMPLATE
) -> list[str]:
    """For each picture (B, H, W, 3) in 0..1 the label whose text is nearest; `template` has one `{}` for the label.

    Raises ForgetError on fewer than two labels: a classifier of one sees it everywhere. Source: Radford et al., CLIP.
    """
    if len(set(labels)) < 2:
        raise ForgetError(
            f"Expected at least two different labels to choose from, got {', '.join(set(labels)) or 'none'}. "
            "List everything that the pictures may show."
        )
    check_templates([template])
    nearest = (model.images(images) @ model.texts([fill_template(template, label) for label in labels]).T).argmax(1)
    names = list(labels)
    return [names[i] for i in nearest.tolist()]
