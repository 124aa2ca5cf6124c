"""Where a phrase attends in a given picture, and the mask that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import ForgetError
from ..model.layers import choose_layers
from ..model.protocol import CrossAttention, ForgetModel
from ..model.tokens import EncodedPrompt
from .hooks import attention_probe
from .maps import to_grid
from .mask_shapes import feather, grow, otsu_threshold

AUTO_LAYERS = "finest up"


@dataclass
class MaskSettings:
    """How heat becomes a mask.

    `threshold`: share of the heat's range, 0 for Otsu's. `grow`, `feather`: pixels, negative growth shrinks.
    """

    threshold: float = 0.0
    grow: int = 0
    feather: float = 0.0
    invert: bool = False


def noise_levels(sigmas: torch.Tensor, steps: int, highest: float) -> torch.Tensor:
    """`steps` noise levels, evenly spaced in timesteps up to the share `highest` (0..1) of them; increasing."""
    shares = highest * torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return sigmas[(shares * (len(sigmas) - 1)).round().long()]


def picture_attention(
    model: ForgetModel,
    prompt: EncodedPrompt,
    columns: list[int],
    latent: torch.Tensor,
    levels: torch.Tensor,
    layers: str = AUTO_LAYERS,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Attention of a picture's latent (1, C, h, w) to the columns of a prompt, (h, w), relative to its mean.

    The latent is noised to every level with its own noise drawn from `seed`, and goes through the UNet once each.
    `layers`: as `choose_layers`, or "finest up": the layers with most pixels among those of the up blocks. Raises
    ForgetError on layers that the model does not have and on attention that is not finite.
    """
    known = model.cross_attention()
    chosen = choose_layers("up" if layers == AUTO_LAYERS else layers, [layer.name for layer in known])
    heats: list[torch.Tensor] = []

    def receive(_: CrossAttention, probabilities: torch.Tensor) -> None:
        heats.append(probabilities[..., columns].sum(-1).mean((0, 1)).float().cpu())

    generator = torch.Generator().manual_seed(seed)
    with attention_probe([known[i] for i in sorted(chosen)], receive):
        for sigma in levels:
            x = latent + sigma * torch.randn(latent.shape, generator=generator)
            model.denoise(x.to(model.device), sigma.reshape(1).to(model.device), [prompt])
            if progress is not None:
                progress()
    if layers == AUTO_LAYERS:
        most = max(heat.numel() for heat in heats)
        heats = [heat for heat in heats if heat.numel() == most]
    return aggregate(heats, latent.shape[-2:])


def aggregate(heats: list[torch.Tensor], size: torch.Size) -> torch.Tensor:
    """Mean (h, w) of heat maps (pixels,) of any grid, each brought to `size` and divided by its own mean.

    Dividing makes every layer count alike, however much attention it gives the phrase. Raises ForgetError when a map
    is not finite.
    """
    if not all(heat.isfinite().all() for heat in heats):
        raise ForgetError(
            "Expected finite attention, got NaN or infinity. Run the model in a higher precision, or remove its patches."
        )
    return torch.stack([to_grid(heat / heat.mean().clamp_min(1e-30), size) for heat in heats]).mean(0)


def to_pixels(heat: torch.Tensor, size: tuple[int, int], scale: int = 8) -> torch.Tensor:
    """Heat (h, w) of a latent, `scale` pixels a cell, as (H, W); cells that lie beyond the picture are cut off."""
    full = torch.nn.functional.interpolate(
        heat[None, None].double(), scale_factor=scale, mode="bilinear", align_corners=False
    )
    return full[0, 0, : size[0], : size[1]]


def mask_from_heat(heat: torch.Tensor, settings: MaskSettings) -> torch.Tensor:
    """Mask (H, W) in 0..1 from heat (H, W): scaled to its range, cut, grown, feathered, inverted, in this order.

    Raises ForgetError when the heat has no contrast, or nothing is left of the mask.
    """
    low, high = heat.min(), heat.max()
    if high - low <= 1e-9 * high.abs():
        raise ForgetError(
            "Expected attention that differs from place to place, got the same everywhere. Choose other layers or another end_token."
        )
    heat = (heat - low) / (high - low)
    cut = settings.threshold or otsu_threshold(heat) or 0.0
    mask = grow(heat > cut, settings.grow)
    if not mask.any():
        raise ForgetError(
            f"Expected a mask with something in it, got none above {cut:.2f} of the range, grown by {settings.grow}. "
            "Lower the threshold, or shrink the mask less."
        )
    mask = feather(mask.float(), settings.feather)
    return 1 - mask if settings.invert else mask
