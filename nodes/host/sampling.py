"""Wraps the host's sampling, replaces its attention, and previews its latents."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention

from .families import require_unet

# Attention of older hosts cannot be replaced through transformer_options, and does not accept them.
_TAKES_OPTIONS = {"kwargs", "transformer_options"} & inspect.signature(optimized_attention).parameters.keys()


def attention_blocks(patcher: Any) -> list[tuple[str, int, int]]:
    """Lists the attn2 layers of a MODEL in forward order, as the host names them.

    Returns
    -------
    For each layer: section ("input", "middle" or "output"), number of the block, index of the transformer in it.
    """
    sections = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    blocks = []
    for name, _ in require_unet(patcher).named_modules():
        if name.endswith(".attn2"):
            parts = name.split(".")
            number = 0 if parts[0] == "middle_block" else int(parts[1])
            blocks.append((sections[parts[0]], number, int(parts[-2])))
    return blocks


def wrap_sampling(patcher: Any, key: str, around_sampling: Any, around_model: Any, around_conds: Any = None) -> None:
    """Adds wrappers to a MODEL's sampling.

    Parameters
    ----------
    key
        Name of the wrappers in the MODEL.
    around_sampling, around_model, around_conds
        Wrappers of a whole sampling, of each call of the model, and, unless None, of the evaluation of all conditionings of a step.
    """
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, key, around_sampling)
    patcher.add_wrapper_with_key(wrappers.APPLY_MODEL, key, around_model)
    if around_conds is not None:
        patcher.add_wrapper_with_key(wrappers.CALC_COND_BATCH, key, around_conds)


def wrap_unet(patcher: Any, key: str, around_unet: Any) -> None:
    """Adds a wrapper around every UNet call of a MODEL, inside of all other wrappers."""
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, key, around_unet)


def unwrap_unet(patcher: Any, key: str) -> None:
    """Removes the wrapper that `wrap_unet` added."""
    patcher.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, key)


def sampling_options(patcher: Any) -> dict[str, Any]:
    """The transformer_options that sampling passes to the UNet, with the wrappers that nodes added to the MODEL."""
    options = dict(patcher.model_options.get("transformer_options", {}))
    merge = comfy.patcher_extension.merge_nested_dicts
    return {**options, "wrappers": merge(options.get("wrappers", {}), patcher.wrappers)}


@contextlib.contextmanager
def replaced_attention(options: dict[str, Any], blocks: Any, replacement: Any, patch: Any):
    """Replaces attn2 layers for one UNet call, on top of the replacements and patches of other nodes.

    The call's transformer_options are restored afterwards.

    Parameters
    ----------
    options
        The transformer_options of the call.
    blocks
        The layers to replace, as attention_blocks names them.
    replacement
        Called with the existing replacement of a layer, or None; returns the function that replaces it.
    patch
        An attn2 patch, which runs after all others.
    """
    before = {name: options.get(name) for name in ("patches", "patches_replace")}
    patches, replaced = before["patches"] or {}, before["patches_replace"] or {}
    attn2 = replaced.get("attn2", {})
    added = {block: replacement(attn2.get(block, attn2.get(block[:2]))) for block in blocks}
    options["patches"] = {**patches, "attn2_patch": [*patches.get("attn2_patch", []), patch]}
    options["patches_replace"] = {**replaced, "attn2": {**attn2, **added}}
    try:
        yield
    finally:
        for name, previous in before.items():
            options.pop(name) if previous is None else options.update({name: previous})


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
    """Runs the host's attention with the backend that the user chose; shapes as for the host's optimized_attention."""
    heads, precision = extra_options["n_heads"], extra_options.get("attn_precision")
    options: dict[str, Any] = {"transformer_options": extra_options} if _TAKES_OPTIONS else {}
    return optimized_attention(q, k, v, heads, attn_precision=precision, **options)


def latent_preview(patcher: Any, x0: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Draws a rough picture of latents with the host's preview colours.

    Parameters
    ----------
    x0
        Latents (B, C, h, w) in the model's scale, of which the first is drawn.
    size
        Height and width of the picture in pixels.

    Returns
    -------
    The picture (H, W, 3) in 0..1.
    """
    latent_format = patcher.model.latent_format
    factors, bias = latent_format.latent_rgb_factors, getattr(latent_format, "latent_rgb_factors_bias", None)
    if factors is None:
        colours = x0.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    else:
        colours = torch.einsum("bchw,cr->brhw", x0, torch.tensor(factors))
        colours = colours + torch.tensor(bias if bias is not None else [0.0, 0.0, 0.0]).view(1, 3, 1, 1)
    colours = torch.nn.functional.interpolate(colours, size=size, mode="bicubic", align_corners=False)
    return ((colours[0].movedim(0, -1) + 1) / 2).clamp(0, 1)
