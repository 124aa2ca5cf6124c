"""Pictures that the page loads from the host's temporary folder."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.errors import ForgetError
from ..host.node_api import ui


def save_images(images: torch.Tensor, cls: Any) -> list[dict[str, Any]]:
    """Saves an IMAGE as files in the temporary folder.

    Parameters
    ----------
    images
        IMAGE (N, H, W, 3) in 0..1.
    cls
        The node class that is executing.

    Returns
    -------
    list of dict
        File name, subfolder and type of each picture, with which the page asks the host for it.

    Raises
    ------
    ForgetError
        If the files cannot be written.
    """
    try:
        return [dict(file) for file in ui.PreviewImage(images, cls=cls).values]
    except OSError as error:
        raise ForgetError(
            f"Expected to write pictures to ComfyUI's temporary folder, but the disk refused: {error.strerror or error}. "
            "Free some space, or check the folder's permissions, and run again."
        ) from error
