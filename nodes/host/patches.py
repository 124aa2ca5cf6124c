"""Applies patches to a MODEL, or to single conditionings through the host's hooks."""

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
from .execution import compute_dtype
from .families import require_editable
from .models import quantisation

log = logging.getLogger("forget-me-not")


def apply_patch(patcher: Any, patch: ForgetPatch, strength: float) -> tuple[Any, int]:
    """Applies a patch to a clone of a MODEL.

    Returns
    -------
    The clone, and the number of layers that changed, which are all layers of the patch.

    Raises
    ------
    ForgetError
        The patch is for another architecture: one of its layers is missing from the MODEL, or has another shape there.
    """
    require_editable(patcher)
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
    """Warns, one line each, where a patch dwarfs a layer's weights, hardly changes any, or overflows half precision.

    Quantised and fp8 weights are not checked, because their values depend on scales.
    """
    targets, weights = comfy.lora.model_lora_keys_unet(patcher.model, {}), patcher.model.state_dict()
    layers = ((f, weights[targets[name]]) for name, f in patch.factors.items())
    float_layers = [(f, w) for f, w in layers if not quantisation(w) and w.element_size() > 1]
    if not float_layers or strength == 0:
        return []
    warnings = magnitude_warnings([(f, _norm(w)) for f, w in float_layers], strength)
    if compute_dtype(patcher) == torch.float16:
        largest = max(float(w.abs().max()) + abs(strength) * largest_entry(f, LARGEST_CHANGE) for f, w in float_layers)
        if largest > LARGEST_CHANGE:
            warnings.append(
                f"warning: weights up to {largest:,.0f} may be infinite in half precision, and pictures black; lower the strength"
            )
    return warnings


def _norm(weight: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32))


def layer_shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a MODEL that a patch can change, by the weight's name in patches."""
    targets, weights = comfy.lora.model_lora_keys_unet(patcher.model, {}), patcher.model.state_dict()
    return {
        n: tuple(weights[key].shape)
        for n, key in targets.items()
        if n.startswith(PREFIX) and isinstance(key, str) and key in weights
    }


class _PatchHook(comfy.hooks.WeightHook):
    """The host's hook of a LoRA file, with a check that the patch fits the MODEL.

    The check runs when sampling begins, because no node has both the patch and the MODEL before.
    """

    patch: ForgetPatch

    def add_hook_patches(self, model: Any, model_options: dict, target_dict: dict, registered: Any) -> bool:
        for_model = target_dict.get("target") != comfy.hooks.EnumWeightTarget.Clip
        if for_model:
            require_editable(model)
            check_fit(self.patch, layer_shapes(model))
        added = super().add_hook_patches(model, model_options, target_dict, registered)
        if for_model and added:
            check_matched(self.patch, len(model.hook_patches[self.hook_ref]))
        return added

    def clone(self) -> Any:
        cloned = super().clone()
        cloned.patch = self.patch
        return cloned


def patch_hooks(patch: ForgetPatch, strength: float, start: float, end: float, keyframes: Any = None) -> Any:
    """Creates HOOKS that apply a patch to a MODEL while conditionings that carry them are evaluated.

    Parameters
    ----------
    start, end
        Where in the sampling the patch acts, as shares of it in 0..1.
    keyframes
        Hook keyframes of the host, which replace `start` and `end`.
    """
    hook, hooks = _PatchHook(strength_model=strength, strength_clip=0.0), comfy.hooks.HookGroup()
    hook.patch, hook.weights = patch, patch.state_dict(torch.float32)
    hooks.add(hook)
    if keyframes is None and (start > 0 or end < 1):
        keyframes = comfy.hooks.HookKeyframeGroup()
        for position, relative_strength in ((0.0, float(start <= 0)), (start, 1.0), (end, 0.0)):
            if position < 1 and (position > 0 or not keyframes.keyframes):
                keyframes.add(comfy.hooks.HookKeyframe(relative_strength, position, guarantee_steps=0))
    if keyframes is not None:
        hooks.set_keyframes_on_hooks(keyframes)
    return hooks


def add_hooks(cond: Any, hooks: Any) -> Any:
    """Returns one entry of a CONDITIONING with hooks added to those that it has."""
    return comfy.hooks.set_hooks_for_conditioning([cond], hooks)[0]


def limit_to_rows(cond: Any, rows: torch.Tensor) -> Any:
    """Returns one entry of a CONDITIONING that acts on some rows of the batch only.

    Parameters
    ----------
    cond
        An entry with one prompt for each row of the batch: its context is (B, l, d).
    rows
        (B,) bool: where the entry acts.
    """
    context, options = cond
    mask = options.get("mask")
    mask = torch.ones(1, 1, 1) if mask is None else (mask[None] if mask.ndim == 2 else mask)
    return [context, {"mask_strength": 1.0, **options, "mask": mask * rows.to(mask.dtype).view(-1, 1, 1)}]


def check_context_width(patch: ForgetPatch, width: int) -> None:
    """Raises ForgetError when all keys and values that a patch changes take conditionings of another width."""
    widths = {f.down.shape[1] for n, f in patch.factors.items() if n.endswith(("attn2_to_k", "attn2_to_v"))}
    if widths and width not in widths:
        raise ForgetError(
            f"Expected a patch for conditionings of width {width}, got one for {', '.join(map(str, sorted(widths)))} "
            f"({base_architecture(patch)}). Choose a patch made for this family of models."
        )
