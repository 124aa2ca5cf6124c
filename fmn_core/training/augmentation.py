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
    """Crops, mirrors and resizes images together with their masks.

    Parameters
    ----------
    images
        Images (N, H, W, 3) in 0..1.
    masks
        Masks (N or 1, H, W) in 0..1, or None.
    seed
        Seed of the random crops and mirrors; one seed gives the same bytes.

    Returns
    -------
    Images (N * copies, h, w, 3) and masks (N * copies, h, w), or None. The first N images are only resized; then comes every image's
    second copy, and so on. With the default settings the inputs are returned as they are.

    Raises
    ------
    ForgetError
        On bad settings, images that are empty, below 8 pixels or not RGB, and on masks that are not one or as many as the images.

    Notes
    -----
    h and w are multiples of 8. They come from the bucket, or from the images' size cropped at the centre. A random crop keeps the
    proportions and is resized to h x w.
    """
    _check_settings(settings)
    _check_images(images, masks)
    if settings == AugmentSettings():
        return images, masks
    count, height, width = images.shape[:3]
    size = bucket_size(height, width, settings.bucket) if settings.bucket else _whole_cells(height, width)
    generator = torch.Generator().manual_seed(seed)
    # Tensors made in inference mode would be refused by autograd later.
    with torch.inference_mode(False), torch.no_grad():
        images = images.float().movedim(-1, 1)
        masks = None if masks is None else _resize_masks(masks, height, width).expand(count, -1, -1, -1)
        copies, mask_copies = [], []
        for copy in range(settings.copies):
            for i in range(count):
                box, flip = _draw_crop((height, width), size, settings, generator if copy else None)
                copies.append(_crop(images[i], box, flip, size, "bicubic"))
                if masks is not None:
                    mask_copies.append(_crop(masks[i], box, flip, size, "bilinear")[0])
        return torch.stack(copies).movedim(1, -1).contiguous(), torch.stack(mask_copies) if mask_copies else None


def bucket_size(height: int, width: int, bucket: int) -> tuple[int, int]:
    """Chooses the resolution bucket (height, width) whose aspect ratio is nearest to that of the images.

    Parameters
    ----------
    height, width
        Size of the images.
    bucket
        Square root of the largest area. Sides are multiples of 64, or of 8 below a bucket of 256.

    Notes
    -----
    Buckets are the sizes that cannot grow by a step in both directions. Aspect ratios are compared by their logarithms; of two that
    are equally near, the taller one is chosen. Source: aspect ratio bucketing as published by NovelAI, 2022.
    """
    step = CELL if bucket < _SMALL_BUCKET else _BUCKET_STEP
    area = bucket**2 // step**2
    sizes = [(h, w) for w in range(1, area + 1) for h in range(max(1, area // (w + 1)), area // w + 1)]
    log_ratio = math.log(height / width)

    # Rounding keeps the last bit of a logarithm from deciding between two that are equally near.
    best = min(sizes, key=lambda size: round(abs(math.log(size[0] / size[1]) - log_ratio), 9))
    return best[0] * step, best[1] * step


def _whole_cells(height: int, width: int) -> tuple[int, int]:
    """Height and width rounded down to multiples of a VAE's cell."""
    return height // CELL * CELL, width // CELL * CELL


def _draw_crop(
    image: tuple[int, int], size: tuple[int, int], settings: AugmentSettings, generator: torch.Generator | None
) -> tuple[Box, bool]:
    """Draws a random crop (top, left, height, width), and whether it is mirrored.

    Without a generator the crop is the largest in the proportions of `size`, from the centre. As many numbers are drawn under all
    settings, so that one setting does not change the effect of another.
    """
    removed = y = x = coin = 1.0
    if generator is not None:
        removed, y, x, coin = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    flip = settings.flip and coin < 0.5
    if generator is None or not settings.crop:
        height, width = _crop_size(image, size, 0.0)
        return ((image[0] - height) // 2, (image[1] - width) // 2, height, width), flip
    height, width = _crop_size(image, size, removed * settings.crop)
    return (int(y * (image[0] - height + 1)), int(x * (image[1] - width + 1)), height, width), flip


def _crop_size(image: tuple[int, int], size: tuple[int, int], removed: float) -> tuple[int, int]:
    """Height and width of the largest crop in the proportions of `size`, with a share of both sides removed."""
    if size == _whole_cells(*image):
        largest = size
    else:
        scale = min(image[0] / size[0], image[1] / size[1])
        largest = (min(image[0], round(size[0] * scale)), min(image[1], round(size[1] * scale)))
    return math.ceil(largest[0] * (1 - removed)), math.ceil(largest[1] * (1 - removed))


def _crop(image: torch.Tensor, box: Box, flip: bool, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Crops an image (C, H, W) to `box`, resizes it to `size`, and mirrors it with `flip`."""
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    if (height, width) != size:
        crop = F.interpolate(crop[None], size=size, mode=mode, align_corners=False, antialias=True)[0].clamp(0, 1)
    return crop.flip(-1) if flip else crop


def _resize_masks(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes masks (N, h, w) to the images' size, (N, 1, H, W)."""
    masks = masks.float()[:, None]
    if masks.shape[-2:] == (height, width):
        return masks
    return F.interpolate(masks, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def _check_settings(settings: AugmentSettings) -> None:
    """Raises ForgetError on a bucket smaller than a cell of the VAE."""
    if 0 < settings.bucket < CELL:
        raise ForgetError(
            f"Expected a bucket of 0 or at least {CELL} pixels, got {settings.bucket}. Use 512 for SD 1.x."
        )


def _check_images(images: torch.Tensor, masks: torch.Tensor | None) -> None:
    """Raises ForgetError on images that are no RGB images of 8 pixels or more, and on masks that do not fit them."""
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
