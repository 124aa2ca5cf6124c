"""Masks of image size, brought to the pixels of a cross-attention layer."""

from __future__ import annotations

import torch

from ..errors import ForgetError

MIN_SIDE = 8


def check_mask(mask: torch.Tensor) -> torch.Tensor:
    """A mask as float32 (B, H, W) in 0..1, from (H, W) or (B, H, W); values outside are clamped.

    Raises ForgetError on another rank, a side below 8 pixels, values that are not finite, and a mask of zeros only.
    """
    shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 3) or mask.numel() == 0:
        raise ForgetError(f"Expected a mask of shape (H, W) or (B, H, W), got {shape}. Connect a MASK.")
    if min(mask.shape[-2:]) < MIN_SIDE:
        raise ForgetError(
            f"Expected a mask of at least {MIN_SIDE}x{MIN_SIDE} pixels, got {mask.shape[-1]}x{mask.shape[-2]}. "
            "Connect a mask of the picture's size."
        )
    mask = mask.detach().float()
    mask = mask[None] if mask.ndim == 2 else mask
    if not torch.isfinite(mask).all():
        raise ForgetError("Expected a mask with values from 0 to 1, got some that are not numbers. Make the mask anew.")
    if mask.max() <= 0:
        raise ForgetError("Expected a mask with something in it, got zeros only. Paint the mask, or disconnect it.")
    return mask.clamp(0, 1)


def layer_grid(pixels: int, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of the layer with that number of pixels in a UNet on a latent of height x width.

    Every downsampling is a convolution of stride 2 that rounds odd sides up. Raises ForgetError when none fits.
    """
    rows, columns = height, width
    while rows * columns > pixels and (rows, columns) != (1, 1):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    if rows * columns != pixels:
        raise ForgetError(
            f"Expected a layer on a {height}x{width} latent, halved any number of times, got one of {pixels} pixels. "
            "Disconnect the mask, or remove the node that merges or rescales the layer's pixels."
        )
    return rows, columns


def mask_to_grid(mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Mask (B, H, W) -> (B, rows * columns): area interpolation, the mean of the mask under every cell, row by row."""
    return torch.nn.functional.interpolate(mask[:, None], size=grid, mode="area").flatten(1)


def layer_mask(mask: torch.Tensor, pixels: int, height: int, width: int) -> torch.Tensor:
    """A mask (H, W) or (B, H, W) of any size and shape -> (B, pixels) of a layer on a latent of height x width.

    Raises ForgetError on a bad mask (see check_mask), and when no layer of that latent has so many pixels.
    """
    return mask_to_grid(check_mask(mask), layer_grid(pixels, height, width))


class LayerMasks:
    """A mask at the resolution of every layer that asks for it, on a device: each is made and copied once.

    `mask`: (H, W) or (B, H, W); `height`, `width`: of the latent. Calls give (B, pixels), and raise what layer_mask raises.
    """

    def __init__(self, mask: torch.Tensor, height: int, width: int, device: torch.device | str):
        self._mask, self._size, self._device = mask, (height, width), device
        self._made: dict[int, torch.Tensor] = {}

    def __call__(self, pixels: int) -> torch.Tensor:
        """The mask at a layer of so many pixels; each resolution is computed once."""
        if pixels not in self._made:
            self._made[pixels] = layer_mask(self._mask, pixels, *self._size).to(self._device)
        return self._made[pixels]
