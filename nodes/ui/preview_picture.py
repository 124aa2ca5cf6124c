"""Small pictures as text: inside a patch's metadata, and in messages to the page."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
import torch
from PIL import Image

PREFIX = "data:image/jpeg;base64,"
SIDE = 256
# A stranger's preview: larger ones are not opened.
LARGEST_SIDE = 4096


def data_uri(picture: Image.Image) -> str:
    """A picture of at most SIDE pixels each way, as JPEG."""
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return PREFIX + base64.b64encode(buffer.getvalue()).decode()


def of_image(images: torch.Tensor) -> str:
    """The first picture of an IMAGE."""
    pixels = (images[0, ..., :3].detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    return data_uri(Image.fromarray(pixels))


def as_image(text: str) -> torch.Tensor:
    """A preview as IMAGE; a grey one when there is none, or none that can be read."""
    grey = torch.full((1, 64, 64, 3), 0.5)
    if not text.startswith(PREFIX):
        return grey
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text[len(PREFIX) :], validate=True)), formats=["JPEG"])
        if max(picture.size) > LARGEST_SIDE:
            return grey
        return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError):
        return grey
