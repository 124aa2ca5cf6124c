"""Shaping masks: threshold, grow, feather, and the outlines of boxes and ellipses."""

from __future__ import annotations

import math

import torch


def otsu_threshold(values: torch.Tensor) -> float | None:
    """The cut that parts values into two classes with the largest variance between them; None when all are equal.

    `values`: any shape, finite. Every cut between two neighbouring distinct values is tried, without a histogram; the
    middle of the gap is returned. Source: Otsu, A Threshold Selection Method from Gray-Level Histograms, 1979.
    """
    ordered = values.flatten().double().sort().values
    gaps = (ordered[1:] > ordered[:-1]).nonzero()[:, 0]
    if not len(gaps):
        return None
    below, total = gaps + 1.0, len(ordered)
    sums = ordered.cumsum(0)
    difference = sums[gaps] / below - (sums[-1] - sums[gaps]) / (total - below)
    best = gaps[(below * (total - below) * difference**2).argmax()]
    return float((ordered[best] + ordered[best + 1]) / 2)


def grow(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Dilates a boolean mask (H, W) by a disc of `radius` pixels, or erodes it by one of -radius; 0 changes nothing.

    Beyond the picture there is neither object nor background, so what touches the border is not eroded there.
    """
    if radius < 0:
        return ~grow(~mask, -radius)
    if radius == 0:
        return mask
    offset = torch.arange(-radius, radius + 1)
    disc = (offset[:, None] ** 2 + offset**2 <= radius**2).double()
    size = [n + 2 * radius for n in mask.shape]
    # A convolution through the Fourier transform costs the same for every radius.
    counted = torch.fft.irfft2(torch.fft.rfft2(mask.double(), size) * torch.fft.rfft2(disc, size), size)
    return counted[radius : radius + mask.shape[0], radius : radius + mask.shape[1]] > 0.5


def feather(mask: torch.Tensor, width: float) -> torch.Tensor:
    """Blurs a mask (H, W) in 0..1 with a Gaussian whose standard deviation is half of `width` pixels; 0 changes nothing."""
    if width <= 0:
        return mask
    radius = math.ceil(1.5 * width)
    kernel = torch.exp(-2 * (torch.arange(-radius, radius + 1, dtype=mask.dtype) / width) ** 2)
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(mask[None, None], [radius] * 4, mode="replicate")
    blurred = torch.nn.functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(blurred, kernel.view(1, 1, -1, 1))[0, 0].clamp(0, 1)


def box_mask(size: tuple[int, int], box: tuple[float, float, float, float]) -> torch.Tensor:
    """Mask (H, W) that is 1 on the pixels whose centres lie in `box` (left, top, right, bottom) in pixels."""
    y, x = _from_centre(size, box)
    return ((x.abs() <= 1) & (y.abs() <= 1)).float()


def ellipse_mask(size: tuple[int, int], box: tuple[float, float, float, float], soft: float = 0.2) -> torch.Tensor:
    """Mask (H, W) of the ellipse that fills `box`: 1 inside, falling as a cosine to 0 over the outer `soft` of its radius."""
    y, x = _from_centre(size, box)
    inward = ((1 - (x**2 + y**2).sqrt()) / soft).clamp(0, 1)
    return (0.5 - 0.5 * torch.cos(math.pi * inward)).float()


def _from_centre(size: tuple[int, int], box: tuple[float, float, float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel centres (H, 1) and (1, W) relative to the box: -1 and 1 are its edges."""
    left, top, right, bottom = box
    y = (torch.arange(size[0], dtype=torch.float64) + 0.5 - (top + bottom) / 2) * 2 / max(bottom - top, 1e-9)
    x = (torch.arange(size[1], dtype=torch.float64) + 0.5 - (left + right) / 2) * 2 / max(right - left, 1e-9)
    return y[:, None], x[None]
