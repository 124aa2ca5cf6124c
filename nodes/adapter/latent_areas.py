"""Where the pixels of a UNet call are in the picture, so that a mask of the picture can follow them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ...fmn_core.attention.masks import layer_grid, mask_to_grid
from ...fmn_core.errors import ForgetError

Box = tuple[int, int, int, int]


class LatentAreas:
    """Follows a mask (B, H, W) through area conditioning: a UNet call sees whole latents, or one area of them."""

    def __init__(self, mask: torch.Tensor):
        self.mask = mask
        self._on_device = {mask.device: mask}
        self._frame: tuple[int, int] | None = None
        self._boxes: dict[Any, Box] = {}

    def around_conds(self, executor: Any, model, conds, x_in, timestep, model_options):
        """Wrapper of the host's evaluation of all conditionings: notes the areas by the conditionings' ids."""
        before = self._frame, self._boxes
        self._frame = x_in.shape[-2], x_in.shape[-1]
        self._boxes = {c["uuid"]: _box(c["area"], self._frame) for group in conds for c in group or [] if "area" in c}
        try:
            return executor(model, conds, x_in, timestep, model_options)
        finally:
            self._frame, self._boxes = before

    def call_mask(self, x: torch.Tensor, ids: list | None) -> CallMask:
        """The mask of a UNet call on x (B, C, h, w) that runs the conditionings with these ids, one after another.

        Raises ForgetError when x is neither the whole latent nor one of its areas.
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
    """The mask of one UNet call: a crop (B, H, W) for every conditioning, the batch, the latent's height and width."""

    crops: list[torch.Tensor]
    batch: int
    size: tuple[int, int]
    _made: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    def rows(self, q: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        """The mask of a layer's pixels, (B, n); pictures of a batch take the masks in turn, as the host does."""
        if len(q) != self.batch:
            raise ForgetError(
                f"Expected a batch of {self.batch} in attn2, got {len(q)}. Disconnect the mask, or remove the node that splits it."
            )
        grid = tuple(extra_options.get("activations_shape", ())[-2:])
        if len(grid) != 2 or grid[0] * grid[1] != q.shape[1]:
            grid = layer_grid(q.shape[1], *self.size)
        if grid not in self._made:  # layers of one resolution share it
            self._made[grid] = self._at((grid[0], grid[1]))
        return self._made[grid]

    def _at(self, grid: tuple[int, int]) -> torch.Tensor:
        images = self.batch // len(self.crops)
        turns = [torch.arange(images, device=crop.device) % len(crop) for crop in self.crops]
        return torch.cat([mask_to_grid(crop, grid)[turn] for crop, turn in zip(self.crops, turns)])


def _box(area: tuple[int, ...], frame: tuple[int, int]) -> Box:
    """(height, width, top, left) of a conditioning's area, cut off where the latent ends, as the host does."""
    half = len(area) // 2
    (height, width), (top, left) = area[:half][-2:], area[half:][-2:]
    return min(height, frame[0] - top), min(width, frame[1] - left), top, left


def _crop(mask: torch.Tensor, box: Box, frame: tuple[int, int]) -> torch.Tensor:
    """The part of a mask (B, H, W) under a box of a latent of the frame's size, at the mask's own resolution."""
    part = []
    for side, length, start, size in ((1, box[0], box[2], frame[0]), (2, box[1], box[3], frame[1])):
        pixels = mask.shape[side]
        first = min(pixels - 1, round(start * pixels / size))
        part.append(slice(first, max(first + 1, round((start + length) * pixels / size))))
    return mask[:, part[0], part[1]]
