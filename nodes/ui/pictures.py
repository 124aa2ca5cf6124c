"""Pictures that nodes show: plots of a training, rows of image pairs and heat maps of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .. import host

# Attention over a picture; the page's own drawing has the same figures.
_HOT, _MOST_OPAQUE, _DARKENED = (1.0, 0.12, 0.08), 0.9, 0.6
_INK, _GRID, _LINES = (40, 40, 44), (225, 225, 228), ((214, 69, 65), (52, 120, 200))


def to_image(picture: Image.Image) -> torch.Tensor:
    """Converts a PIL picture to IMAGE (1, H, W, 3) in 0..1."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).float().div_(255)[None]


def latent_picture(patcher: Any, latents: torch.Tensor, side: int = 256) -> Image.Image:
    """A rough picture of latents (1, C, h, w) in the host's preview colours, its longer side `side` pixels long."""
    h, w = latents.shape[-2:]
    size = (side * h // max(h, w), side * w // max(h, w))
    pixels = host.latent_preview(patcher, latents.float(), size)
    return Image.fromarray((pixels * 255).round().byte().numpy())


def curves(
    series: dict[str, list[float]],
    total: int,
    title: str,
    size: tuple[int, int] = (512, 320),
    steps: Sequence[int] | None = None,
) -> Image.Image:
    """Plots each series over the steps, scaled to its own maximum, which the legend states.

    Parameters
    ----------
    series
        Values of each curve, by its label.
    total
        Last step of the axis.
    size
        Width and height in pixels.
    steps
        Step of each value, 1..total; None: the values belong to the steps 1, 2, 3 and so on.
    """
    picture, draw, box = _canvas(title, size)
    for i, (name, values) in enumerate(series.items()):
        top = max(max(values, default=0.0), 1e-30)
        points = [
            (
                box[0] + (box[2] - box[0]) * (k - 1) / max(1, total - 1),
                box[3] - (box[3] - box[1]) * min(1.0, max(0.0, v / top)),
            )
            for k, v in zip(steps or range(1, len(values) + 1), values)
        ]
        if len(points) > 1:
            draw.line(points, fill=_LINES[i % 2], width=2)
        elif points:
            x, y = points[0]
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_LINES[i % 2])
        draw.text(
            (box[0] + 8 + 220 * i, size[1] - 20),
            f"{name}: max {top:.4g}, last {values[-1] if values else 0:.4g}",
            fill=_LINES[i % 2],
        )
    return picture


def bars(series: dict[str, list[float]], title: str, size: tuple[int, int] = (512, 320)) -> Image.Image:
    """Plots bars in one group per layer, scaled to the largest value of all series."""
    picture, draw, box = _canvas(title, size)
    top = max([1e-12, *(v for values in series.values() for v in values)])
    count, groups = max(len(v) for v in series.values()), len(series)
    width = (box[2] - box[0]) / count
    for i, (name, values) in enumerate(series.items()):
        for k, value in enumerate(values):
            left = box[0] + k * width + i * width * 0.8 / groups
            draw.rectangle(
                (left, box[3] - (box[3] - box[1]) * value / top, left + width * 0.7 / groups, box[3]),
                fill=_LINES[i % 2],
            )
        mean = sum(values) / len(values)
        draw.text(
            (box[0] + 8 + 220 * i, size[1] - 20), f"{name}: mean {mean:.3g}, max {max(values):.3g}", fill=_LINES[i % 2]
        )
    return picture


def _canvas(title: str, size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[int, int, int, int]]:
    picture = Image.new("RGB", size, "white")
    draw, box = ImageDraw.Draw(picture), (24, 32, size[0] - 16, size[1] - 32)
    for k in range(5):
        y = box[1] + (box[3] - box[1]) * k / 4
        draw.line((box[0], y, box[2], y), fill=_GRID)
    draw.text((box[0], 10), title, fill=_INK)
    return picture, draw, box


def training_plot(figures: dict[str, Any], title: str) -> torch.Tensor:
    """IMAGE of a training by gradient's losses, or of the closed form's missed target and drift in every layer."""
    if "losses" in figures:
        return to_image(
            curves({"loss": figures["losses"], "attention mass": figures["mass"]}, len(figures["losses"]), title)
        )
    layers = figures["layers"].values()
    keys = {"target missed": "missed", "preserve drift": "drift"}
    return to_image(bars({label: [layer.get(key, 0.0) for layer in layers] for label, key in keys.items()}, title))


def pair_rows(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Puts pairs of pictures (N, H, W, 3) into one IMAGE: a row with the concept's attention, and below it a row without."""
    rows = [torch.cat(list(side), dim=1) for pair in pairs for side in pair]
    return torch.cat(rows, dim=0)[None].clamp(0, 1)


def heat_overlay(picture: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Lays attention (h, w) in red over a picture (H, W, 3) turned grey and dark; returns IMAGE (1, H, W, 3).

    Notes
    -----
    The least attention is clear and the greatest red, as in attention_overlay.js. Opacity grows with the square: a
    middling attention everywhere shall not hide where it is greatest.
    """
    h, w = picture.shape[:2]
    heat = torch.nn.functional.interpolate(heat[None, None], size=(h, w), mode="bicubic", align_corners=False)[0, 0]
    heat = (heat - heat.min()) / (heat.max() - heat.min()).clamp_min(1e-12)
    opacity = _MOST_OPAQUE * heat.square()[..., None]
    grey = picture.mean(-1, keepdim=True).expand(-1, -1, 3)
    return (_DARKENED * grey * (1 - opacity) + torch.tensor(_HOT) * opacity).clamp(0, 1)[None]
