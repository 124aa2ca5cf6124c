"""Patches on a MODEL, or on single conditionings through the host's hooks."""

from __future__ import annotations

import logging
from typing import Any

import comfy.hooks
import comfy.lora
import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.patch import ForgetPatch
from .models import require_unet

log = logging.getLogger("forget-me-not")


def apply_patch(patcher: Any, patch: ForgetPatch, strength: float) -> tuple[Any, int]:
    """A clone of MODEL with the patch on it, and the number of layers that it matched.

    Raises ForgetError when no layer matches, or a shape differs: the patch is then for another architecture.
    """
    require_unet(patcher)
    targets = comfy.lora.model_lora_keys_unet(patcher.model, {})
    shapes = {k: tuple(v.shape) for k, v in patcher.model.state_dict().items()}
    known = {name: f for name, f in patch.factors.items() if name in targets}
    wrong = [n for n, f in known.items() if (f.up.shape[0], f.down.shape[1]) != shapes[targets[n]][:2]]
    missing = len(patch.factors) - len(known)
    if wrong or not known:
        got = f"{len(wrong)} layers of other shapes" if wrong else "no layer of that name"
        raise ForgetError(
            f"Expected a patch for this architecture, got one with {got} ({patch.base.get('architecture', 'unknown base')}). "
            "Choose a patch made for this family of models."
        )
    clone = patcher.clone()
    loaded = comfy.lora.load_lora(patch.state_dict(torch.float32), {n: targets[n] for n in known}, log_missing=False)
    matched = len(clone.add_patches(loaded, strength))
    if missing:
        log.warning("%d of %d layers of the patch are not in this model", missing, len(patch.factors))
    return clone, matched


def patch_hooks(patch: ForgetPatch, strength: float, start: float, end: float, keyframes: Any = None) -> Any:
    """HOOKS that put a patch on a MODEL while conditionings that carry them are evaluated.

    `start`, `end`: shares of the sampling; `keyframes`: the host's own, in their place.
    """
    hooks = comfy.hooks.create_hook_lora(patch.state_dict(torch.float32), strength, 0.0)
    if keyframes is None and (start > 0 or end < 1):
        keyframes = comfy.hooks.HookKeyframeGroup()
        for at, share in ((0.0, float(start <= 0)), (start, 1.0), (end, 0.0)):
            if at < 1 and (at > 0 or not keyframes.keyframes):
                keyframes.add(comfy.hooks.HookKeyframe(share, at, guarantee_steps=0))
    if keyframes is not None:
        hooks.set_keyframes_on_hooks(keyframes)
    return hooks


def with_hooks(cond: Any, hooks: Any) -> Any:
    """One entry of a CONDITIONING with hooks added to those that it has."""
    return comfy.hooks.set_hooks_for_conditioning([cond], hooks)[0]


def only_rows(cond: Any, rows: torch.Tensor) -> Any:
    """One entry of a CONDITIONING of several prompts, (B, l, dim), that counts for some of the batch: rows (B,) of bool."""
    context, values = cond
    mask = values.get("mask")
    mask = torch.ones(1, 1, 1) if mask is None else (mask[None] if mask.ndim == 2 else mask)
    return [context, {"mask_strength": 1.0, **values, "mask": mask * rows.to(mask.dtype).view(-1, 1, 1)}]


def check_context_width(patch: ForgetPatch, width: int) -> None:
    """Raises ForgetError when a patch changes no cross-attention key or value of a model with conditionings so wide."""
    widths = {f.down.shape[1] for n, f in patch.factors.items() if n.endswith(("attn2_to_k", "attn2_to_v"))}
    if widths and width not in widths:
        raise ForgetError(
            f"Expected a patch for conditionings of width {width}, got one for {', '.join(map(str, sorted(widths)))} "
            f"({patch.base.get('architecture', 'unknown base')}). Choose a patch made for this family of models."
        )
