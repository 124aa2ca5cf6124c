"""Models that stay on their devices, and fit for autograd, while nodes compute with them outside of the host's own sampling."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from .models import load


class LoadedModels:
    """Models of the host (MODEL's and CLIP's ModelPatchers) that are to be on their devices at the same time.

    The host may move a model away whenever it loads another one, and only its own sampling and encoding bring it back. `refresh` does so
    here: before each pass through a model. It costs a look at every layer where all is in place.

    Parameters
    ----------
    patchers : the models; all are loaded by one call, so that none of them makes room for another.
    for_gradients : whether a backward pass follows. Weights on the device are then no inference tensors, which autograd refuses, and
        weights that the host brings to the device for a single call are copied there before they are used: newer hosts bring the next
        layer's to the same memory, where the backward pass would find them. `release` takes the copying back.
    """

    def __init__(self, patchers: list[Any], for_gradients: bool = False):
        self.patchers, self.for_gradients = patchers, for_gradients

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
        """Loads what is not loaded, or is loaded with the patches of another MODEL."""
        if not self._in_place():
            load(*self.patchers)
        if self.for_gradients:
            for patcher in self.patchers:
                thaw(patcher.model, patcher.load_device)
            self._copy_weights()

    def _in_place(self) -> bool:
        for patcher in self.patchers:
            loaded = getattr(patcher.model, "current_weight_patches_uuid", None)
            if loaded != patcher.patches_uuid or not same_device(patcher.current_loaded_device(), patcher.load_device):
                return False
        return all(
            casts(layer) or all(p is None or same_device(p.device, device) for p in layer._parameters.values())
            for layer, device in self._layers
        )

    def _copy_weights(self) -> None:
        """Adds a copy to the weight functions of layers whose weights come for one call, and takes it from all others."""
        for layer, device in self._layers:
            functions = getattr(layer, "weight_function", None)
            if functions is None:
                continue
            wanted = is_offloaded(layer, device)
            if wanted != (torch.clone in functions):
                _set_copying(layer, wanted)

    def release(self) -> None:
        """Takes the copying of weights back."""
        for layer, _ in self._layers:
            if torch.clone in getattr(layer, "weight_function", ()):
                _set_copying(layer, False)

    def keep_weight_copies(self) -> bool:
        """Whether a backward pass keeps a copy of some layers' weights, for as long as its activations: those that are cast or offloaded."""
        cast = any(getattr(p.model, "manual_cast_dtype", None) is not None for p in self.patchers)
        return cast or any(is_offloaded(layer, device) for layer, device in self._layers)


def same_device(one: torch.device, other: torch.device) -> bool:
    """Whether two devices are one; the host may name the first of a kind without its number."""
    return one.type == other.type and (one.index or 0) == (other.index or 0)


def casts(layer: torch.nn.Module) -> bool:
    """Whether a layer brings its weights to its input's device and precision by itself."""
    return bool(getattr(layer, "comfy_cast_weights", False) or getattr(layer, "weight_function", None))


def is_offloaded(layer: torch.nn.Module, device: torch.device) -> bool:
    """Whether a layer's weights are brought to the device for each call, by partial loading or by DynamicVRAM (`_v`)."""
    weight = layer._parameters.get("weight")
    return weight is not None and casts(layer) and (hasattr(layer, "_v") or not same_device(weight.device, device))


def _set_copying(layer: Any, wanted: bool) -> None:
    for name in ("weight_function", "bias_function"):
        functions = [f for f in getattr(layer, name) if f is not torch.clone]
        setattr(layer, name, [*functions, torch.clone] if wanted else functions)


def thaw(root: torch.nn.Module, device: torch.device) -> None:
    """Makes what a backward pass meets fit for it: parameters on the device, and buffers. Values stay bit-identical.

    The host loads weights as inference tensors, which autograd refuses. Weights that it keeps elsewhere stay the tensors that they are, since
    it may have pinned their memory; what is computed with are copies of them.
    """
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not (parameter.is_inference() or parameter.requires_grad):
                continue
            if casts(module) and not same_device(parameter.device, device):
                parameter.requires_grad_(False)
                continue
            thawed: Any = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
            thawed.__dict__.update(parameter.__dict__)  # newer hosts note the precision to load a weight in
            module._parameters[name] = thawed
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_inference():
                module._buffers[name] = buffer.detach().clone()


def without_loading(clip: Any) -> Any:
    """The same CLIP, which takes its text encoders for loaded: outside of inference mode the host must not move models.

    A parameter that was made in inference mode and is moved outside of it comes out neither an inference tensor nor one that autograd takes.
    """
    same = copy.copy(clip)
    same.load_model = lambda *args, **kwargs: clip.patcher
    return same
