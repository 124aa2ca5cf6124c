"""Checks masks and resizes them to the resolution of cross-attention layers."""

from __future__ import annotations

import torch

from ..errors import ForgetError

MIN_SIDE = 8


def check_mask(mask: torch.Tensor) -> torch.Tensor:
    """Checks a mask (H, W) or (B, H, W) and returns it as float32 (B, H, W), clamped to 0..1.

    Raises
    ------
    ForgetError
        On another rank, a side below 8 pixels, values that are not finite, and a mask of zeros only.
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
    """Finds the grid (rows, columns) of a layer from its number of pixels and the height and width of the latent.

    Raises
    ------
    ForgetError
        When no number of downsamplings leads to so many pixels.

    Notes
    -----
    Every downsampling of the UNet is a convolution of stride 2, which rounds odd sides up.
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
    """Averages a mask (B, H, W) over every cell of a grid (rows, columns): (B, rows * columns), row by row."""
    return torch.nn.functional.interpolate(mask[:, None], size=grid, mode="area").flatten(1)


def layer_mask(mask: torch.Tensor, pixels: int, height: int, width: int) -> torch.Tensor:
    """Resizes a mask (H, W) or (B, H, W) to the pixels of a layer, (B, pixels).

    Parameters
    ----------
    pixels
        Number of the layer's pixels.
    height, width
        Size of the latent; the mask's size and aspect ratio may differ.

    Raises
    ------
    ForgetError
        What check_mask and layer_grid raise.
    """
    return mask_to_grid(check_mask(mask), layer_grid(pixels, height, width))


class LayerMasks:
    """A mask on a device, resized once for each layer resolution.

    Parameters
    ----------
    mask
        The mask, (H, W) or (B, H, W).
    height, width
        Size of the latent.
    """

    def __init__(self, mask: torch.Tensor, height: int, width: int, device: torch.device | str):
        self._mask, self._size, self._device = mask, (height, width), device
        self._by_pixels: dict[int, torch.Tensor] = {}

    def __call__(self, pixels: int) -> torch.Tensor:
        """The mask (B, pixels) for layers with that number of pixels; raises what layer_mask raises."""
        if pixels not in self._by_pixels:
            self._by_pixels[pixels] = layer_mask(self._mask, pixels, *self._size).to(self._device)
        return self._by_pixels[pixels]
