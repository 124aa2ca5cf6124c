"""Small pictures as data URIs, for the metadata of a patch and for messages to the page."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
import torch
from PIL import Image

PREFIX = "data:image/jpeg;base64,"
SIDE = 256
# A file from a stranger may hold a picture that fills the memory: larger ones are not opened.
LARGEST_SIDE = 4096


def data_uri(picture: Image.Image) -> str:
    """The data URI of a picture as JPEG, scaled down to at most SIDE pixels each way."""
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return PREFIX + base64.b64encode(buffer.getvalue()).decode()


def encode_preview(images: torch.Tensor) -> str:
    """The data URI of the first picture of an IMAGE."""
    pixels = (images[0, ..., :3].detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    return data_uri(Image.fromarray(pixels))


def decode_preview(uri: str) -> torch.Tensor:
    """The picture of a data URI as IMAGE; a grey picture where the URI is empty or cannot be read."""
    grey = torch.full((1, 64, 64, 3), 0.5)
    if not uri.startswith(PREFIX):
        return grey
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(uri[len(PREFIX) :], validate=True)), formats=["JPEG"])
        if max(picture.size) > LARGEST_SIDE:
            return grey
        return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError):
        return grey
