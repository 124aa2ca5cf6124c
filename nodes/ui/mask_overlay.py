"""Picture check and preview of the mask nodes."""

from __future__ import annotations

import torch

from ...fmn_core.errors import ForgetError


def check_images(images: torch.Tensor | None) -> torch.Tensor:
    """Returns IMAGE (B, H, W, 3) unchanged; raises ForgetError if it is missing, not RGB, or smaller than 8 x 8 pixels."""
    if images is None or images.ndim != 4 or 0 in images.shape:
        got = "none" if images is None else f"an IMAGE of shape {list(images.shape)}"
        raise ForgetError(f"Expected at least one picture, got {got}. Connect other images.")
    if min(images.shape[1:3]) < 8 or images.shape[-1] != 3:
        raise ForgetError(
            f"Expected RGB images of at least 8 x 8 pixels, got {list(images.shape)}. Connect other images."
        )
    return images


def mask_overlay(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Preview of masks (B, H, W) on pictures (B, H, W, 3): grey where the mask is 0, tinted red where it is 1."""
    mask = masks[..., None]
    grey = images.mean(-1, keepdim=True) * 0.6 + 0.2
    red = torch.tensor([1.0, 0.15, 0.1])
    return (grey * (1 - mask) + (0.55 * images + 0.45 * red) * mask).clamp(0, 1)
