"""Trainable changes of layers: low-rank factors, or a full delta that is reduced to factors afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch.nn import functional as F

from ..patch.factors import best_factors
from ..patch.patch import Factors

WeightForm = Literal["LoRA", "full delta"]
WEIGHT_FORMS: tuple[WeightForm, ...] = get_args(WeightForm)


@dataclass(frozen=True)
class Convolution:
    """Geometry of a convolutional layer."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, layer: Any) -> Convolution | None:
        """The geometry of a layer; None when the layer is linear."""
        return cls(layer.stride, layer.padding, layer.dilation) if layer.weight.ndim == 4 else None

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Convolves an input with another weight in the same geometry."""
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation)


class LowRank(torch.nn.Module):
    """Trainable factors of a linear or convolutional layer, out += up(down(in)), always in float32.

    Parameters
    ----------
    generator
        Random generator of `down`, which starts uniform as in LoRA. `up` starts at zero, so that training starts from the model.
    """

    def __init__(self, layer: Any, rank: int, generator: torch.Generator, device: torch.device):
        super().__init__()
        weight = layer.weight
        self.convolution = Convolution.of(layer)
        bound = (weight.shape[1:].numel()) ** -0.5
        down = (torch.rand(rank, *weight.shape[1:], generator=generator) * 2 - 1) * bound
        self.down = torch.nn.Parameter(down.to(device))
        ones = (1,) * (weight.ndim - 2)
        self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], rank, *ones, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes what the factors add to the layer's output for an input x."""
        x = x.to(self.down.dtype)
        if self.convolution is not None:
            return F.conv2d(self.convolution(x, self.down), self.up)
        return F.linear(F.linear(x, self.down), self.up)

    def energy(self, moment: torch.Tensor) -> torch.Tensor:
        """Mean |dW x|^2 over inputs x with the second moment (in, in), differentiable; dW itself is never computed."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        return ((up.T @ up) * (down @ moment @ down.T)).sum()

    def as_factors(self, rank: int) -> tuple[Factors, float]:
        """The factors, and the share of energy that is lost in them: none."""
        return Factors(self.up.detach().cpu(), self.down.detach().cpu(), float(self.down.shape[0])), 0.0


class FullDelta(torch.nn.Module):
    """Trainable change of a layer's whole weight, in float32, from zero; the published training changes whole weights."""

    def __init__(self, layer: Any, rank: int, generator: torch.Generator, device: torch.device):
        super().__init__()
        self.convolution = Convolution.of(layer)
        self.delta = torch.nn.Parameter(torch.zeros(layer.weight.shape, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes what the delta adds to the layer's output for an input x."""
        x = x.to(self.delta.dtype)
        return F.linear(x, self.delta) if self.convolution is None else self.convolution(x, self.delta)

    def energy(self, moment: torch.Tensor) -> torch.Tensor:
        """Mean |dW x|^2 over inputs x with the second moment (in, in), differentiable."""
        delta = self.delta.flatten(1)
        return ((delta @ moment) * delta).sum()

    def as_factors(self, rank: int) -> tuple[Factors, float]:
        """The best factors of at most `rank` (truncated SVD), and the share of energy (sum of squares) that they lose."""
        shape = self.delta.shape
        up, down, residual = best_factors(self.delta.flatten(1).detach().cpu().double(), rank)
        rank = up.shape[1]
        up = up.float().reshape(shape[0], rank, *(1 for _ in shape[2:]))
        return Factors(up, down.float().reshape(rank, *shape[1:]), float(rank)), residual


Trainable = LowRank | FullDelta


def make_trainable(form: str, layer: Any, rank: int, generator: torch.Generator, device: torch.device) -> Trainable:
    """Makes the trainable change of a layer in one of WEIGHT_FORMS."""
    return (LowRank if form == "LoRA" else FullDelta)(layer, rank, generator, device)


@contextlib.contextmanager
def injected(
    layers: Mapping[str, torch.nn.Module], changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
) -> Iterator[None]:
    """Adds functions of a layer's input, such as trainable changes, to the outputs of their layers while the context lasts."""
    handles = []

    def add(change: Callable[[torch.Tensor], torch.Tensor]):
        return lambda module, inputs, output: output + change(inputs[0]).to(output.dtype)

    try:
        for name, change in changes.items():
            handles.append(layers[name].register_forward_hook(add(change)))
        yield
    finally:
        for handle in handles:
            handle.remove()
