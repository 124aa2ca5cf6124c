"""Forward hooks that read attention and inject trainable factors, in any host, without touching its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from .attention import attention_probabilities
from .model import CrossAttention


@contextlib.contextmanager
def attention_probe(
    layers: list[CrossAttention], receive: Callable[[CrossAttention, torch.Tensor], None]
) -> Iterator[None]:
    """Calls `receive(layer, A)` for every cross-attention layer that runs, A (B, heads, pixels, tokens), differentiable.

    The probabilities are computed beside the model's own attention, from the outputs of to_q and to_k, because no
    attention backend returns them. Factors injected earlier on these projections are seen.
    """
    handles = []

    def watch(layer: CrossAttention) -> None:
        seen: list[torch.Tensor] = []

        def on_q(module, inputs, output):
            seen[:] = [output]

        def on_k(module, inputs, output):
            receive(layer, attention_probabilities(seen.pop(), output, layer.heads))

        handles.append(layer.projections["to_q"].register_forward_hook(on_q))
        handles.append(layer.projections["to_k"].register_forward_hook(on_k))

    try:
        for layer in layers:
            watch(layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


class LowRank(torch.nn.Module):
    """Trainable factors beside a linear or convolutional layer: out += alpha / rank * up(down(in)), alpha = rank.

    `down` starts uniform as in LoRA, drawn from `generator`; `up` starts at zero, so training starts from the model.
    """

    def __init__(self, layer: Any, rank: int, generator: torch.Generator, device: torch.device):
        super().__init__()
        weight = layer.weight
        self.convolution: dict[str, Any] = {}
        kernel: tuple[int, ...] = ()
        if weight.ndim == 4:
            kernel = tuple(weight.shape[2:])
            self.convolution = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        bound = (weight.shape[1:].numel()) ** -0.5
        down = (torch.rand(rank, *weight.shape[1:], generator=generator) * 2 - 1) * bound
        self.down = torch.nn.Parameter(down.to(device))
        self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], rank, *(1 for _ in kernel), device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.down.dtype)
        if self.convolution:
            return F.conv2d(F.conv2d(x, self.down, **self.convolution), self.up)
        return F.linear(F.linear(x, self.down), self.up)


@contextlib.contextmanager
def injected(layers: dict[str, torch.nn.Module], factors: dict[str, LowRank]) -> Iterator[None]:
    """Adds the factors' output to their layers' output while the context lasts."""
    handles = []

    def add(factor: LowRank):
        return lambda module, inputs, output: output + factor(inputs[0]).to(output.dtype)

    try:
        for name, factor in factors.items():
            handles.append(layers[name].register_forward_hook(add(factor)))
        yield
    finally:
        for handle in handles:
            handle.remove()
