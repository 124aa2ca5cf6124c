"""What the header of a model's file says of its UNet, without reading a weight."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .patch import architecture

# Blocks in forward order, in the names of the first Stable Diffusion and in those of diffusers.
_BLOCKS = {"input_blocks": 0, "middle_block": 1, "output_blocks": 2, "down_blocks": 0, "mid_block": 1, "up_blocks": 2}
_KEY = re.compile(rf"(?:(?:model\.)?diffusion_model\.|unet\.)?({'|'.join(_BLOCKS)})\.(.*)\.attn2\.to_k\.weight")


def read_base(path: Path) -> dict[str, Any]:
    """Reads the shapes of a UNet's cross-attention keys from the header of a safetensors file.

    Parameters
    ----------
    path
        A checkpoint or a UNet alone, with the names of the first Stable Diffusion or of diffusers.

    Returns
    -------
    The fingerprint of patch.fingerprint_of_weights without "norms"; empty for any other file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            matches = filter(None, map(_KEY.fullmatch, f.keys()))
            layers = [(_position(match), list(f.get_slice(match[0]).get_shape())) for match in matches]
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError, MemoryError):
        return {}
    shapes = [shape for _, shape in sorted(layers)]
    if not shapes or any(len(shape) != 2 for shape in shapes):
        return {}
    width = shapes[0][1]
    return {"architecture": architecture(shapes), "context_dim": width, "shapes": shapes}


def _position(match: re.Match[str]) -> tuple[int, list[int]]:
    """Place of a layer in the forward order: its block, then the numbers in its name."""
    return _BLOCKS[match[1]], [int(number) for number in re.findall(r"\d+", match[2])]
