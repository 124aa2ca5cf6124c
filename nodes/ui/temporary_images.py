"""Pictures for the page, in the host's temporary folder."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.errors import ForgetError
from ..host.node_api import ui


def saved(images: torch.Tensor, cls: Any) -> list[dict[str, Any]]:
    """IMAGE as files; file name, subfolder and type of each, as the page asks the host for it.

    Raises ForgetError when the disk refuses.
    """
    try:
        return [dict(found) for found in ui.PreviewImage(images, cls=cls).values]
    except OSError as error:
        raise ForgetError(
            f"Expected to write pictures to ComfyUI's temporary folder, but the disk refused: {error.strerror or error}. "
            "Free some space, or check the folder's permissions, and run again."
        ) from error
