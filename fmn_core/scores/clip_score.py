"""CLIP score and zero-shot labels of pictures, with any image-text model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from ..concepts.templates import check_templates, fill_template
from ..errors import ForgetError

TEMPLATE = "a picture of {}"


class ImageTextModel(Protocol):
    """A model that encodes pictures and texts to comparable features of length 1, such as CLIP, in float32 on the CPU."""

    name: str

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes pictures (B, H, W, 3) in 0..1 to features (B, D)."""
        ...

    def texts(self, texts: list[str]) -> torch.Tensor:
        """Encodes N texts to features (N, D)."""
        ...


def similarities(model: ImageTextModel, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """Cosine of each picture with its prompt, (B,) in -1..1.

    Parameters
    ----------
    images
        Pictures (B, H, W, 3) in 0..1.
    prompts
        One prompt for all pictures, or one for each.

    Raises
    ------
    ForgetError
        Without pictures, and on another number of prompts.
    """
    if len(images) == 0:
        raise ForgetError("Expected at least one picture, got none. Connect pictures.")
    if len(prompts) not in (1, len(images)):
        raise ForgetError(
            f"Expected one prompt, or one for each of {len(images)} pictures, got {len(prompts)}. Write one line a picture."
        )
    return (model.images(images) * model.texts(list(prompts))).sum(1)


def clip_score(model: ImageTextModel, images: torch.Tensor, prompts: Sequence[str]) -> float:
    """CLIP score: mean cosine of pictures with their prompts, -1..1; see similarities.

    Notes
    -----
    Source: Hessel et al., CLIPScore, here without its factor of 2.5.
    """
    return float(similarities(model, images, prompts).mean())


def zero_shot(
    model: ImageTextModel, images: torch.Tensor, labels: Sequence[str], template: str = TEMPLATE
) -> list[str]:
    """Classifies pictures by the label whose text is nearest.

    Parameters
    ----------
    images
        Pictures (B, H, W, 3) in 0..1.
    template
        Text with one `{}` for the label.

    Raises
    ------
    ForgetError
        On fewer than two labels, since a classifier with one label sees it in every picture.

    Notes
    -----
    Source: Radford et al., CLIP.
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
