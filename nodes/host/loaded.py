"""Keeps models loaded, and accepted by autograd, while nodes compute outside of the host's own sampling."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from .models import load


class LoadedModels:
    """Models of the host that stay on their devices at the same time.

    The host may offload a model whenever it loads another one, and only its own sampling and encoding load it again.
    Call `refresh` before each forward pass, and `release` at the end.

    Parameters
    ----------
    patchers
        ModelPatchers of MODELs and CLIPs. One call loads all of them, so that none makes room for another.
    for_gradients
        Whether a backward pass follows. Weights on the device are then replaced by copies that are no inference
        tensors, which autograd refuses. Layers whose weights the host brings to the device for a single call copy
        them before use, because newer hosts reuse that memory for the next layer before the backward pass reads it.
    """

    def __init__(self, patchers: list[Any], for_gradients: bool = False):
        self.patchers, self.for_gradients = patchers, for_gradients
        self._frozen = False

    @functools.cached_property
    def _layers(self) -> list[tuple[torch.nn.Module, torch.device]]:
        """Modules without submodules, and the device that each computes on."""
        return [
            (module, patcher.load_device)
            for patcher in self.patchers
            for module in patcher.model.modules()
            if not module._modules
        ]

    def refresh(self) -> None:
        """Loads all models again if one was offloaded, or carries the patches of another MODEL."""
        if not self._in_place():
            load(*self.patchers)
        if self.for_gradients:
            for patcher in self.patchers:
                replace_inference_tensors(patcher.model, patcher.load_device, freeze=not self._frozen)
            self._frozen = True
            self._copy_weights()

    def _in_place(self) -> bool:
        for patcher in self.patchers:
            patches_uuid = getattr(patcher.model, "current_weight_patches_uuid", None)
            on_device = same_device(patcher.current_loaded_device(), patcher.load_device)
            if patches_uuid != patcher.patches_uuid or not on_device:
                return False
        return all(
            casts_weights(layer) or all(p is None or same_device(p.device, device) for p in layer._parameters.values())
            for layer, device in self._layers
        )

    def _copy_weights(self) -> None:
        """Adds a copy to the weight functions of offloaded layers, and removes it from those of all others."""
        for layer, device in self._layers:
            functions = getattr(layer, "weight_function", None)
            if functions is None:
                continue
            offloaded = is_offloaded(layer, device)
            if offloaded != (torch.clone in functions):
                _set_copying(layer, offloaded)

    def release(self) -> None:
        """Stops the copying of weights that `refresh` set up for gradients."""
        for layer, _ in self._layers:
            if torch.clone in getattr(layer, "weight_function", ()):
                _set_copying(layer, False)

    def keep_weight_copies(self) -> bool:
        """Whether a backward pass would keep copies of weights, those of cast or offloaded layers, as long as its activations."""
        cast = any(getattr(p.model, "manual_cast_dtype", None) is not None for p in self.patchers)
        return cast or any(is_offloaded(layer, device) for layer, device in self._layers)


def same_device(a: torch.device, b: torch.device) -> bool:
    """Whether two devices are the same; the host may name the first of a type without its index."""
    return a.type == b.type and (a.index or 0) == (b.index or 0)


def casts_weights(layer: torch.nn.Module) -> bool:
    """Whether a layer itself brings its weights to its input's device and precision."""
    return bool(getattr(layer, "comfy_cast_weights", False) or getattr(layer, "weight_function", None))


def is_offloaded(layer: torch.nn.Module, device: torch.device) -> bool:
    """Whether the host brings a layer's weights to the device for each call: partial loading, or DynamicVRAM (`_v`)."""
    weight = layer._parameters.get("weight")
    if weight is None or not casts_weights(layer):
        return False
    return hasattr(layer, "_v") or not same_device(weight.device, device)


def _set_copying(layer: Any, enabled: bool) -> None:
    for name in ("weight_function", "bias_function"):
        functions = [f for f in getattr(layer, name) if f is not torch.clone]
        setattr(layer, name, [*functions, torch.clone] if enabled else functions)


def replace_inference_tensors(root: torch.nn.Module, device: torch.device, freeze: bool) -> None:
    """Replaces the inference tensors of a module, parameters on the device and buffers, by bit-identical copies that autograd accepts.

    Parameters
    ----------
    freeze
        Whether parameters that require gradients no longer do so. Later calls leave them to callers who train them.

    Notes
    -----
    The host loads weights as inference tensors, which autograd refuses. Offloaded weights stay the same tensors,
    because the host may have pinned their memory; layers compute with copies of them.
    """
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not (parameter.is_inference() or (freeze and parameter.requires_grad)):
                continue
            if casts_weights(module) and not same_device(parameter.device, device):
                parameter.requires_grad_(False)
                continue
            replacement: Any = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
            replacement.__dict__.update(parameter.__dict__)  # newer hosts note the precision to load a weight in
            module._parameters[name] = replacement
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_inference():
                module._buffers[name] = buffer.detach().clone()


def assume_loaded(clip: Any) -> Any:
    """Returns a shallow copy of a CLIP that encodes without loading its text encoders.

    Notes
    -----
    Outside of inference mode the host must not move models: see `load`.
    """
    loaded_clip = copy.copy(clip)
    loaded_clip.load_model = lambda *args, **kwargs: clip.patcher
    return loaded_clip
