"""The adapter through which fmn_core uses a MODEL and a CLIP of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...fmn_core.attention.hooks import SteeredCrossAttention
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.entries import POOLED, TextEntry, attention_entries
from ...fmn_core.model.protocol import PROJECTION_NAMES, CrossAttention
from .. import host
from .host_model import HostModel
from .text import ComfyText


class ComfyModel(HostModel, SteeredCrossAttention, ComfyText):
    """fmn_core's ForgetModel over a MODEL (ModelPatcher) and a CLIP; neither is changed.

    Raises
    ------
    ForgetError
        The MODEL has no UNet with cross-attention, or the CLIP belongs to another family.
    """

    def __init__(self, patcher: Any, clip: Any):
        self.patcher, self.unet = patcher, host.require_unet(patcher)
        super().__init__(clip)
        self.use_model(patcher)
        self._modules = dict(self.unet.named_modules())
        self._names = host.diffusers_names(patcher)
        self._layers = self._find_layers()
        # Encoded once, because it loads the text encoders, and may push the UNet off a small device.
        self._empty = self.encode([""])[0]
        width, unet_width = self._empty.context.shape[1], self._context_width()
        if width != unet_width:
            raise ForgetError(
                f"Expected a CLIP of width {unet_width} for this MODEL, got {width}. Connect the CLIP that belongs to the MODEL."
            )

    def wants_pooled(self) -> bool:
        """Whether the MODEL takes a pooled text embedding besides the context."""
        return host.takes_pooled(self.patcher)

    # --- layers ---

    def _find_layers(self) -> list[CrossAttention]:
        paths = {}
        for diffusers_path, host_path in self._names.items():
            if diffusers_path.endswith(".attn2.to_k"):
                paths[host_path.removesuffix(".to_k")] = diffusers_path.removesuffix(".to_k")
        layers = []
        for name, module in self._modules.items():
            if name in paths:
                projections = {p: module.get_submodule(p) for p in PROJECTION_NAMES}
                layers.append(CrossAttention(paths[name], module.heads, projections))
        if not layers:
            raise ForgetError(
                "Expected a UNet with cross-attention layers (attn2), found none. Load an SD 1.x, 2.x or XL model."
            )
        return layers

    def cross_attention(self) -> list[CrossAttention]:
        """See ForgetModel.cross_attention."""
        return self._layers

    def text_entries(self) -> list[TextEntry]:
        """See ForgetModel.text_entries."""
        entries = attention_entries(self._layers)
        layer, pooled = host.pooled_layer(self.patcher), self._empty.pooled
        if layer is not None and pooled is not None:
            entries.append(TextEntry(*layer, POOLED, pooled.shape[1]))
        return entries

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        """See ForgetModel.linear_layers."""
        modules = ((name, self._modules.get(host_path)) for name, host_path in self._names.items())
        return {name: m for name, m in modules if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}

    def blocks(self) -> list[torch.nn.Module]:
        """See ForgetModel.blocks."""
        return host.unet_blocks(self.unet)

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        """See ForgetModel.weights."""
        paths = (self._names[".".join(name)] for name in names)
        return host.effective_weights(self.patcher, [f"diffusion_model.{path}.weight" for path in paths], device)

    def _context_width(self) -> int:
        """Width d of the text conditioning that the UNet takes."""
        weight: Any = self._layers[0].projections["to_k"].weight
        return weight.shape[1]

    def latent_shape(self) -> tuple[int, int, int]:
        """See ForgetModel.latent_shape."""
        side = host.native_latent_side(self.patcher, self._context_width())
        return self.patcher.model.latent_format.latent_channels, side, side
