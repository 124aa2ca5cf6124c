"""Aligns a mask of the picture with the pixels of each UNet call, which may cover an area of the latent only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ...fmn_core.attention.masks import layer_grid, mask_to_grid
from ...fmn_core.errors import ForgetError

# Height, width, top and left in latent pixels.
Box = tuple[int, int, int, int]


class LatentAreas:
    """Crops a mask (B, H, W) to the area of each UNet call, for conditionings with areas."""

    def __init__(self, mask: torch.Tensor):
        self.mask = mask
        self._on_device = {mask.device: mask}
        self._frame: tuple[int, int] | None = None
        self._boxes: dict[Any, Box] = {}

    def around_conds(self, executor: Any, model, conds, x_in, timestep, model_options):
        """Wraps the host's evaluation of all conditionings and notes their areas by the conditionings' ids."""
        before = self._frame, self._boxes
        self._frame = x_in.shape[-2], x_in.shape[-1]
        self._boxes = {c["uuid"]: _box(c["area"], self._frame) for group in conds for c in group or [] if "area" in c}
        try:
            return executor(model, conds, x_in, timestep, model_options)
        finally:
            self._frame, self._boxes = before

    def call_mask(self, x: torch.Tensor, ids: list | None) -> CallMask:
        """Returns the mask of one UNet call.

        Parameters
        ----------
        x
            Latents (B, C, h, w) of the call.
        ids
            Ids of the conditionings in the batch, in order; None where the host gives none.

        Raises
        ------
        ForgetError
            The size of x is neither that of the latent nor that of the conditionings' areas.
        """
        size = x.shape[-2], x.shape[-1]
        frame = self._frame or size
        crops = []
        for box in [self._boxes.get(i, (frame[0], frame[1], 0, 0)) for i in ids or [None]]:
            if box[:2] != size:
                raise ForgetError(
                    f"Expected a UNet call on a latent area of {box[1]}x{box[0]}, got {size[1]}x{size[0]}. Disconnect the mask, "
                    "or remove the node that cuts the latent into tiles or windows."
                )
            crops.append(_crop(self._mask_on(x.device), box, frame))
        return CallMask(crops, len(x), size)

    def _mask_on(self, device: torch.device) -> torch.Tensor:
        """The mask on a device, copied there once."""
        if device not in self._on_device:
            self._on_device[device] = self.mask.to(device)
        return self._on_device[device]


@dataclass
class CallMask:
    """The mask of one UNet call.

    Attributes
    ----------
    crops
        A mask (B, H, W) for every conditioning of the call.
    batch
        Batch size of the call.
    size
        Height and width of the call's latents.
    """

    crops: list[torch.Tensor]
    batch: int
    size: tuple[int, int]
    _masks_by_grid: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    def rows(self, q: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        """Resizes the mask to the pixels of a layer.

        Parameters
        ----------
        q
            Queries (B, n, d) of the layer.
        extra_options
            The host's options of the layer.

        Returns
        -------
        The mask (B, n). Pictures of a batch take the masks in turn, as in the host.
        """
        if len(q) != self.batch:
            raise ForgetError(
                f"Expected a batch of {self.batch} in attn2, got {len(q)}. Disconnect the mask, or remove the node that splits it."
            )
        grid = tuple(extra_options.get("activations_shape", ())[-2:])
        if len(grid) != 2 or grid[0] * grid[1] != q.shape[1]:
            grid = layer_grid(q.shape[1], *self.size)
        if grid not in self._masks_by_grid:  # layers of one resolution share a mask
            self._masks_by_grid[grid] = self._resized((grid[0], grid[1]))
        return self._masks_by_grid[grid]

    def _resized(self, grid: tuple[int, int]) -> torch.Tensor:
        images = self.batch // len(self.crops)
        mask_numbers = [torch.arange(images, device=crop.device) % len(crop) for crop in self.crops]
        return torch.cat([mask_to_grid(crop, grid)[numbers] for crop, numbers in zip(self.crops, mask_numbers)])


def _box(area: tuple[int, ...], frame: tuple[int, int]) -> Box:
    """Box of a conditioning's area, clipped to the latent as in the host."""
    half = len(area) // 2
    (height, width), (top, left) = area[:half][-2:], area[half:][-2:]
    return min(height, frame[0] - top), min(width, frame[1] - left), top, left


def _crop(mask: torch.Tensor, box: Box, frame: tuple[int, int]) -> torch.Tensor:
    """Crops a mask (B, H, W), at its own resolution, to a box of a latent of size `frame`."""
    slices = []
    for dim, length, start, size in ((1, box[0], box[2], frame[0]), (2, box[1], box[3], frame[1])):
        pixels = mask.shape[dim]
        first = min(pixels - 1, round(start * pixels / size))
        slices.append(slice(first, max(first + 1, round((start + length) * pixels / size))))
    return mask[:, slices[0], slices[1]]
