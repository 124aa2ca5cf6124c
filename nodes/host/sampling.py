"""Attention and previews while the host samples."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention

from .models import require_unet

# Older hosts' attention cannot be replaced through transformer_options, and does not take them.
_TAKES_OPTIONS = {"kwargs", "transformer_options"} & inspect.signature(optimized_attention).parameters.keys()


def attention_blocks(patcher: Any) -> list[tuple[str, int, int]]:
    """(place, block number, transformer index) of every attn2 layer in forward order, as the host names them."""
    places = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    blocks = []
    for name, _ in require_unet(patcher).named_modules():
        if name.endswith(".attn2"):
            parts = name.split(".")
            number = 0 if parts[0] == "middle_block" else int(parts[1])
            blocks.append((places[parts[0]], number, int(parts[-2])))
    return blocks


def wrap_sampling(patcher: Any, key: str, around_sampling: Any, around_unet: Any, around_conds: Any = None) -> None:
    """Runs one function around every sampling with this MODEL, one around every UNet call in it, and, if wanted, one
    around the evaluation of all conditionings of a step."""
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, key, around_sampling)
    patcher.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, key, around_unet)
    if around_conds is not None:
        patcher.add_wrapper_with_key(wrappers.CALC_COND_BATCH, key, around_conds)


def wrap_unet(patcher: Any, key: str, around_unet: Any) -> None:
    """Runs a function around every UNet call with this MODEL, inside of all that are there already."""
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, key, around_unet)


def unwrap_unet(patcher: Any, key: str) -> None:
    """Takes `wrap_unet` back."""
    patcher.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, key)


def sampling_options(patcher: Any) -> dict[str, Any]:
    """The transformer_options of a UNet call as sampling fills them: with the wrappers that nodes put on the MODEL."""
    options = dict(patcher.model_options.get("transformer_options", {}))
    merge = comfy.patcher_extension.merge_nested_dicts
    return {**options, "wrappers": merge(options.get("wrappers", {}), patcher.wrappers)}


@contextlib.contextmanager
def replaced_attention(options: dict[str, Any], blocks: Any, replacement: Any, patch: Any):
    """Replaces attn2 layers for one UNet call, on top of whatever other nodes put there, in whatever order.

    `replacement(before)` makes the function of a block from the replacement that is there already, or None. `patch`
    runs after all attn2 patches. Both are gone from the call's transformer_options afterwards.
    """
    before = {name: options.get(name) for name in ("patches", "patches_replace")}
    patches, replaced = before["patches"] or {}, before["patches_replace"] or {}
    attn2 = replaced.get("attn2", {})
    ours = {block: replacement(attn2.get(block, attn2.get(block[:2]))) for block in blocks}
    options["patches"] = {**patches, "attn2_patch": [*patches.get("attn2_patch", []), patch]}
    options["patches_replace"] = {**replaced, "attn2": {**attn2, **ours}}
    try:
        yield
    finally:
        for name, value in before.items():
            options.pop(name) if value is None else options.update({name: value})


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
    """The host's own attention with the backend the user chose."""
    heads, precision = extra_options["n_heads"], extra_options.get("attn_precision")
    options: dict[str, Any] = {"transformer_options": extra_options} if _TAKES_OPTIONS else {}
    return optimized_attention(q, k, v, heads, attn_precision=precision, **options)


def latent_preview(patcher: Any, x0: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A rough picture (H, W, 3) in 0..1 of latents in the model's scale, from the host's preview colours."""
    latent_format = patcher.model.latent_format
    factors, bias = latent_format.latent_rgb_factors, getattr(latent_format, "latent_rgb_factors_bias", None)
    if factors is None:
        colours = x0.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    else:
        colours = torch.einsum("bchw,cr->brhw", x0, torch.tensor(factors))
        colours = colours + torch.tensor(bias if bias is not None else [0.0, 0.0, 0.0]).view(1, 3, 1, 1)
    colours = torch.nn.functional.interpolate(colours, size=size, mode="bicubic", align_corners=False)
    return ((colours[0].movedim(0, -1) + 1) / 2).clamp(0, 1)
