"""Patches on a MODEL, or on single conditionings through the host's hooks."""

from __future__ import annotations

import logging
from typing import Any

import comfy.hooks
import comfy.lora
import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.file import LARGEST_CHANGE
from ...fmn_core.patch.fit import base_architecture, check_fit, check_matched
from ...fmn_core.patch.patch import PREFIX, ForgetPatch
from ...fmn_core.patch.size import largest_entry, magnitude_warnings
from .models import quantisation, require_unet

log = logging.getLogger("forget-me-not")


def apply_patch(patcher: Any, patch: ForgetPatch, strength: float) -> tuple[Any, int]:
    """A clone of MODEL with the patch on it, and the number of layers that it changes, which is all of the patch.

    Raises ForgetError when any layer is not in the model, or has another shape there: the patch is then for another architecture.
    """
    require_unet(patcher)
    check_fit(patch, layer_shapes(patcher))
    targets = comfy.lora.model_lora_keys_unet(patcher.model, {})
    clone = patcher.clone()
    loaded = comfy.lora.load_lora(
        patch.state_dict(torch.float32), {n: targets[n] for n in patch.factors}, log_missing=False
    )
    matched = len(clone.add_patches(loaded, strength))
    check_matched(patch, matched)
    return clone, matched


def size_warnings(patcher: Any, patch: ForgetPatch, strength: float) -> list[str]:
    """Lines for the report where a patch drowns a layer's weights, hardly changes any, or leaves half precision.

    Weights that are quantised or in fp8 are left out: their numbers mean something only with their scales.
    """
    targets, weights = comfy.lora.model_lora_keys_unet(patcher.model, {}), patcher.model.state_dict()
    layers = ((f, weights[targets[name]]) for name, f in patch.factors.items())
    plain = [(f, w) for f, w in layers if not quantisation(w) and w.element_size() > 1]
    if not plain or strength == 0:
        return []
    found = magnitude_warnings([(f, _norm(w)) for f, w in plain], strength)
    computes_in = patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()
    if computes_in == torch.float16:
        largest = max(float(w.abs().max()) + abs(strength) * largest_entry(f, LARGEST_CHANGE) for f, w in plain)
        if largest > LARGEST_CHANGE:
            found.append(
                f"warning: weights up to {largest:,.0f} may be infinite in half precision, and pictures black; lower the strength"
            )
    return found


def _norm(weight: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32))


def layer_shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every weight that a patch can change, by the name that a patch has for it."""
    targets, weights = comfy.lora.model_lora_keys_unet(patcher.model, {}), patcher.model.state_dict()
    return {
        n: tuple(weights[key].shape)
        for n, key in targets.items()
        if n.startswith(PREFIX) and isinstance(key, str) and key in weights
    }


class _PatchHook(comfy.hooks.WeightHook):
    """The host's hook of a LoRA file, which refuses a MODEL that the patch does not fit when sampling begins: no node sees both before."""

    patch: ForgetPatch

    def add_hook_patches(self, model: Any, model_options: dict, target_dict: dict, registered: Any) -> bool:
        of_model = target_dict.get("target") != comfy.hooks.EnumWeightTarget.Clip
        if of_model:
            require_unet(model)
            check_fit(self.patch, layer_shapes(model))
        added = super().add_hook_patches(model, model_options, target_dict, registered)
        if of_model and added:
            check_matched(self.patch, len(model.hook_patches[self.hook_ref]))
        return added

    def clone(self) -> Any:
        cloned = super().clone()
        cloned.patch = self.patch
        return cloned


def patch_hooks(patch: ForgetPatch, strength: float, start: float, end: float, keyframes: Any = None) -> Any:
    """HOOKS that put a patch on a MODEL while conditionings that carry them are evaluated.

    `start`, `end`: shares of the sampling; `keyframes`: the host's own, in their place.
    """
    hook, hooks = _PatchHook(strength_model=strength, strength_clip=0.0), comfy.hooks.HookGroup()
    hook.patch, hook.weights = patch, patch.state_dict(torch.float32)
    hooks.add(hook)
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
            f"({base_architecture(patch)}). Choose a patch made for this family of models."
        )
