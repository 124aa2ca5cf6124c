"""Operations on masks: Otsu's threshold, growing, feathering, and the shapes of boxes and ellipses."""

from __future__ import annotations

import math

import torch
from scipy import ndimage


def otsu_threshold(values: torch.Tensor) -> float | None:
    """Threshold that splits values into two classes with the largest variance between them.

    Parameters
    ----------
    values
        Finite values of any shape.

    Returns
    -------
    The middle of the gap at which the values are split; None when all values are equal.

    Notes
    -----
    Every gap between two neighbouring distinct values is tried, without a histogram. Source: Otsu, A Threshold Selection Method from
    Gray-Level Histograms, 1979.
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

    Notes
    -----
    Pixels beyond the picture count as neither mask nor background, so a mask that touches the border is not eroded there. A distance
    transform costs the same for every radius.
    """
    if radius < 0:
        return ~grow(~mask, -radius)
    if radius == 0 or not mask.any():
        return mask
    distance = torch.as_tensor(ndimage.distance_transform_edt(~mask.cpu().numpy()))
    return (distance <= radius).to(mask.device)


def feather(mask: torch.Tensor, width: float) -> torch.Tensor:
    """Blurs a mask (H, W) in 0..1 with a Gaussian whose standard deviation is half of `width` pixels; 0 changes nothing.

    Notes
    -----
    The Gaussian is cut off at three standard deviations, rounded up. The border's pixels are repeated beyond the picture.
    """
    if width <= 0:
        return mask
    radius = math.ceil(1.5 * width)
    blurred = ndimage.gaussian_filter(mask.cpu().double().numpy(), width / 2, mode="nearest", radius=radius)
    return torch.from_numpy(blurred).clamp(0, 1).to(mask.device, mask.dtype)


def box_mask(size: tuple[int, int], box: tuple[float, float, float, float]) -> torch.Tensor:
    """Mask (H, W) that is 1 on the pixels whose centres lie in `box` (left, top, right, bottom) in pixels."""
    y, x = _relative_pixel_centres(size, box)
    return ((x.abs() <= 1) & (y.abs() <= 1)).float()


def ellipse_mask(size: tuple[int, int], box: tuple[float, float, float, float], soft: float = 0.2) -> torch.Tensor:
    """Mask (H, W) of the ellipse that fills `box`: 1 inside, falling as a cosine to 0 over the outer `soft` of its radius."""
    y, x = _relative_pixel_centres(size, box)
    inward = ((1 - (x**2 + y**2).sqrt()) / soft).clamp(0, 1)
    return (0.5 - 0.5 * torch.cos(math.pi * inward)).float()


def _relative_pixel_centres(
    size: tuple[int, int], box: tuple[float, float, float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel centres (H, 1) and (1, W) in the box's coordinates, whose edges are -1 and 1."""
    left, top, right, bottom = box
    y = (torch.arange(size[0], dtype=torch.float64) + 0.5 - (top + bottom) / 2) * 2 / max(bottom - top, 1e-9)
    x = (torch.arange(size[1], dtype=torch.float64) + 0.5 - (left + right) / 2) * 2 / max(right - left, 1e-9)
    return y[:, None], x[None]
