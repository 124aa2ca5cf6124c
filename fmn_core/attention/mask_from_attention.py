"""Masks from the attention that a phrase gets in a given picture."""

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
    """Settings of mask_from_heat.

    Parameters
    ----------
    threshold
        Share of the heat's range, 0..1; 0 chooses Otsu's.
    grow
        Radius in pixels; a negative one shrinks the mask.
    feather
        Width of the blurred edge in pixels.
    """

    threshold: float = 0.0
    grow: int = 0
    feather: float = 0.0
    invert: bool = False


def noise_levels(sigmas: torch.Tensor, steps: int, highest: float) -> torch.Tensor:
    """Selects `steps` increasing noise levels, evenly spaced in timesteps up to the share `highest` (0..1) of them."""
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
    """Measures where a picture attends to columns of a prompt: a heat map (h, w), relative to its mean.

    Parameters
    ----------
    columns
        Numbers of the phrase's attention columns.
    latent
        The picture, (1, C, h, w).
    levels
        Sigmas; the latent is noised to each of them and goes through the UNet once for each.
    layers
        As in `choose_layers`, or "finest up": the layers with most pixels among those of the up blocks.
    seed
        Seed of the noise, which differs from level to level.

    Raises
    ------
    ForgetError
        On layers that the model does not have, and on attention that is not finite.
    """
    all_layers = model.cross_attention()
    chosen = choose_layers("up" if layers == AUTO_LAYERS else layers, [layer.name for layer in all_layers])
    heats: list[torch.Tensor] = []

    def receive(_: CrossAttention, probabilities: torch.Tensor) -> None:
        heats.append(probabilities[..., columns].sum(-1).mean((0, 1)).float().cpu())

    generator = torch.Generator().manual_seed(seed)
    with attention_probe([all_layers[i] for i in sorted(chosen)], receive):
        for sigma in levels:
            x = latent + sigma * torch.randn(latent.shape, generator=generator)
            model.denoise(x.to(model.device), sigma.reshape(1).to(model.device), [prompt])
            if progress is not None:
                progress()
    if layers == AUTO_LAYERS:
        finest = max(heat.numel() for heat in heats)
        heats = [heat for heat in heats if heat.numel() == finest]
    return mean_heat(heats, latent.shape[-2:])


def mean_heat(heats: list[torch.Tensor], size: torch.Size) -> torch.Tensor:
    """Mean (h, w) of heat maps (pixels,) of any resolution, each resized to `size` and divided by its own mean.

    Raises
    ------
    ForgetError
        When a map is not finite.

    Notes
    -----
    The division makes every layer count alike, however much attention it gives the phrase.
    """
    if not all(heat.isfinite().all() for heat in heats):
        raise ForgetError(
            "Expected finite attention, got NaN or infinity. Run the model in a higher precision, or remove its patches."
        )
    return torch.stack([to_grid(heat / heat.mean().clamp_min(1e-30), size) for heat in heats]).mean(0)


def to_pixels(heat: torch.Tensor, size: tuple[int, int], scale: int = 8) -> torch.Tensor:
    """Resizes a heat map (h, w) of a latent to the picture's size (H, W).

    Parameters
    ----------
    size
        Height and width of the picture; cells beyond it are cut off.
    scale
        Pixels of a latent's cell.
    """
    pixels = torch.nn.functional.interpolate(
        heat[None, None].double(), scale_factor=scale, mode="bilinear", align_corners=False
    )
    return pixels[0, 0, : size[0], : size[1]]


def mask_from_heat(heat: torch.Tensor, settings: MaskSettings) -> torch.Tensor:
    """Turns a heat map (H, W) into a mask (H, W) in 0..1: threshold, growing, feathering, inversion, in this order.

    Raises
    ------
    ForgetError
        When the heat map has no contrast, and when nothing is left of the mask.
    """
    low, high = heat.min(), heat.max()
    if high - low <= 1e-9 * high.abs():
        raise ForgetError(
            "Expected attention that differs from place to place, got the same everywhere. Choose other layers or another end_token."
        )
    heat = (heat - low) / (high - low)
    threshold = settings.threshold or otsu_threshold(heat) or 0.0
    mask = grow(heat > threshold, settings.grow)
    if not mask.any():
        raise ForgetError(
            f"Expected a mask with something in it, got none above {threshold:.2f} of the range, grown by {settings.grow}. "
            "Lower the threshold, or shrink the mask less."
        )
    mask = feather(mask.float(), settings.feather)
    return 1 - mask if settings.invert else mask
