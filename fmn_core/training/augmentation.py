"""Augmentation of reference images, with their masks, before a VAE encodes them."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from ..errors import ForgetError
from ..options import option, options

# A VAE of Stable Diffusion works on whole cells of 8 x 8 pixels.
CELL = 8
_BUCKET_STEP, _SMALL_BUCKET = 64, 256

Box = tuple[int, int, int, int]


@options
class AugmentSettings:
    """Augmentation of reference images; the defaults leave them as they are."""

    copies: int = option(
        default=1, help="Augmented copies of each image; the first is the image itself.", minimum=1, maximum=64
    )
    crop: float = option(
        default=0.0,
        help="Largest share of each side that a random crop takes away.",
        minimum=0.0,
        maximum=0.9,
        step=0.01,
    )
    flip: bool = option(default=False, help="Mirror copies at random.")
    bucket: int = option(
        default=0,
        help="Resolution bucket: images are cut to its nearest aspect ratio. 0: their own size.",
        minimum=0,
        maximum=4096,
        step=8,
    )


def augment(
    images: torch.Tensor, masks: torch.Tensor | None, settings: AugmentSettings, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Crops, mirrors and resizes images (N, H, W, 3) in 0..1 together with their masks (N or 1, H, W) in 0..1.

    Returns images (N * copies, h, w, 3) and masks (N * copies, h, w), or None: first every image as it is but for its
    size, then every image's second copy, and so on. h and w are multiples of 8, from the bucket or the images' own size
    cropped at the centre. A random crop keeps the proportions and is resized to h x w. One seed gives the same bytes. With
    the default settings the inputs are returned as they are. Raises ForgetError on bad settings, images that are empty,
    below 8 pixels or not RGB, and on masks that are not one or as many as the images.
    """
    _check_settings(settings)
    _check(images, masks)
    if settings == AugmentSettings():
        return images, masks
    count, height, width = images.shape[:3]
    size = bucket_size(height, width, settings.bucket) if settings.bucket else _whole_cells(height, width)
    generator = torch.Generator().manual_seed(seed)
    # Tensors made in inference mode would be refused by autograd later.
    with torch.inference_mode(False), torch.no_grad():
        pictures = images.float().movedim(-1, 1)
        covers = None if masks is None else _as_large_as(masks, height, width).expand(count, -1, -1, -1)
        out, out_masks = [], []
        for copy in range(settings.copies):
            for i in range(count):
                box, flip = _drawn((height, width), size, settings, generator if copy else None)
                out.append(_view(pictures[i], box, flip, size, "bicubic"))
                if covers is not None:
                    out_masks.append(_view(covers[i], box, flip, size, "bilinear")[0])
        return torch.stack(out).movedim(1, -1).contiguous(), torch.stack(out_masks) if out_masks else None


def bucket_size(height: int, width: int, bucket: int) -> tuple[int, int]:
    """The resolution bucket (height, width) for images of height x width.

    Sides are multiples of 64, or of 8 when `bucket` is below 256, and the area is at most bucket squared. Of all such sizes
    that could not grow by a step in both directions, the one whose aspect ratio is nearest by its logarithm; the taller
    one when two are. Source: aspect ratio bucketing as published by NovelAI, 2022.
    """
    step = CELL if bucket < _SMALL_BUCKET else _BUCKET_STEP
    area = bucket**2 // step**2
    sizes = [(h, w) for w in range(1, area + 1) for h in range(max(1, area // (w + 1)), area // w + 1)]
    wanted = math.log(height / width)

    # rounded, so that ties do not hang on the last bit of a logarithm
    best = min(sizes, key=lambda size: round(abs(math.log(size[0] / size[1]) - wanted), 9))
    return best[0] * step, best[1] * step


def _whole_cells(height: int, width: int) -> tuple[int, int]:
    return height // CELL * CELL, width // CELL * CELL


def _drawn(
    image: tuple[int, int], size: tuple[int, int], settings: AugmentSettings, generator: torch.Generator | None
) -> tuple[Box, bool]:
    """The part (top, left, height, width) of an image that becomes a copy, and whether it is mirrored.

    Without a generator: the largest part in the proportions of `size`, from the centre. The same numbers are drawn
    whatever the settings are, so that one setting does not change what another does.
    """
    share = y = x = coin = 1.0
    if generator is not None:
        share, y, x, coin = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    flip = settings.flip and coin < 0.5
    if generator is None or not settings.crop:
        height, width = _fitted(image, size, 0.0)
        return ((image[0] - height) // 2, (image[1] - width) // 2, height, width), flip
    height, width = _fitted(image, size, share * settings.crop)
    return (int(y * (image[0] - height + 1)), int(x * (image[1] - width + 1)), height, width), flip


def _fitted(image: tuple[int, int], size: tuple[int, int], removed: float) -> tuple[int, int]:
    """Height and width of the largest part in the proportions of `size`, both sides less the share that is removed."""
    if size == _whole_cells(*image):
        whole = size
    else:
        scale = min(image[0] / size[0], image[1] / size[1])
        whole = (min(image[0], round(size[0] * scale)), min(image[1], round(size[1] * scale)))
    return math.ceil(whole[0] * (1 - removed)), math.ceil(whole[1] * (1 - removed))


def _view(picture: torch.Tensor, box: Box, flip: bool, size: tuple[int, int], mode: str) -> torch.Tensor:
    """The part `box` of a picture (C, H, W), mirrored if wanted, at height x width `size`."""
    top, left, height, width = box
    part = picture[:, top : top + height, left : left + width]
    if (height, width) != size:
        part = F.interpolate(part[None], size=size, mode=mode, align_corners=False, antialias=True)[0].clamp(0, 1)
    return part.flip(-1) if flip else part


def _as_large_as(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Masks (N, h, w) stretched to the images' size, (N, 1, H, W)."""
    masks = masks.float()[:, None]
    if masks.shape[-2:] == (height, width):
        return masks
    return F.interpolate(masks, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def _check_settings(settings: AugmentSettings) -> None:
    """Raises ForgetError on a bucket that is smaller than a cell of the VAE."""
    if 0 < settings.bucket < CELL:
        raise ForgetError(
            f"Expected a bucket of 0 or at least {CELL} pixels, got {settings.bucket}. Use 512 for SD 1.x."
        )


def _check(images: torch.Tensor, masks: torch.Tensor | None) -> None:
    shape = list(images.shape)
    if images.ndim != 4 or shape[0] == 0 or shape[-1] != 3 or min(shape[1:3]) < CELL or not images.is_floating_point():
        raise ForgetError(
            f"Expected RGB images (N, H, W, 3) in 0..1 of at least {CELL} x {CELL} pixels, got {shape} of {images.dtype}. "
            "Connect other images."
        )
    if masks is not None and (masks.ndim != 3 or masks.shape[0] not in (1, shape[0]) or 0 in masks.shape):
        raise ForgetError(
            f"Expected one mask (H, W) or one for each of {shape[0]} images, got {list(masks.shape)}. Connect as many masks as images."
        )
