"""Weights of a UNet that are trained or replaced in place, and restored exactly afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Weights:
    """Parameters of a UNet while they are trained."""

    def __init__(self, chosen: dict[str, torch.nn.Parameter]):
        self._chosen = chosen
        self._originals = {name: p.data for name, p in chosen.items()}
        for p in chosen.values():
            p.data = p.data.clone()
            p.requires_grad_(True)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters, for an optimiser."""
        return list(self._chosen.values())

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Puts the weights from before the training back for as long as the context lasts, without gradients."""
        trained = {name: p.data for name, p in self._chosen.items()}
        try:
            self._point_to(self._originals)
            with torch.no_grad():
                yield
        finally:
            self._point_to(trained)

    def changed(self) -> dict[str, torch.Tensor]:
        """Copies of the trained weights by name."""
        return {name: p.detach().clone() for name, p in self._chosen.items()}

    def restore(self) -> None:
        """Puts the weights from before the training back for good."""
        self._point_to(self._originals)
        for p in self._chosen.values():
            p.grad = None
            p.requires_grad_(False)

    def _point_to(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, p in self._chosen.items():
            p.data = tensors[name]


def network_of(adapter: Any) -> torch.nn.Module:
    """The UNet or transformer of an adapter."""
    return adapter.unet if hasattr(adapter, "unet") else adapter.patcher.model.diffusion_model


@contextlib.contextmanager
def in_training(adapter: Any, choose: Callable[[str], bool]) -> Iterator[Weights]:
    """Makes parameters of the network trainable whose names `choose` accepts, and restores them on exit."""
    with adapter.ready_for_gradients():
        weights = Weights({n: p for n, p in network_of(adapter).named_parameters() if choose(n)})
        try:
            yield weights
        finally:
            weights.restore()


@contextlib.contextmanager
def in_place(unet: torch.nn.Module, changed: dict[str, torch.Tensor]) -> Iterator[None]:
    """Replaces weights of the UNet for as long as the context lasts."""
    chosen = {n: p for n, p in unet.named_parameters() if n in changed}
    originals = {n: p.data for n, p in chosen.items()}
    try:
        for name, p in chosen.items():
            p.data = changed[name].to(p)
        yield
    finally:
        for name, p in chosen.items():
            p.data = originals[name]


def is_key_or_value(name: str) -> bool:
    """Whether a parameter is a key or value projection of cross-attention, or of the text stream in joint attention."""
    return name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight", ".txt_attn.qkv.weight"))


def is_text_attention(name: str) -> bool:
    """Whether a parameter is one of cross-attention, or of joint attention."""
    return any(part in name for part in (".attn2.", ".txt_attn.", ".img_attn.")) or ".linear1." in name


def keys_and_values(adapter: Any) -> dict[str, torch.Tensor]:
    """Copies of the key and value projections of all cross-attention layers, in float64 on the CPU."""
    with adapter.ready_for_gradients():
        projections = {n: p for n, p in adapter.unet.named_parameters() if is_key_or_value(n)}
        return {n: p.detach().to("cpu", torch.float64, copy=True) for n, p in projections.items()}
