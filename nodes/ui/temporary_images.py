"""Pictures for the page, in the host's temporary folder."""

from __future__ import annotations

from typing import Any

import torch

from ..host.node_api import ui


def saved(images: torch.Tensor, cls: Any) -> list[dict[str, Any]]:
    """IMAGE as files; file name, subfolder and type of each, as the page asks the host for it."""
    return [dict(found) for found in ui.PreviewImage(images, cls=cls).values]
