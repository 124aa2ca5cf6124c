"""What gradient training trains beside a layer: low-rank factors, or a full delta that is reduced to them afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch.nn import functional as F

from ..patch.factors import best_factors
from ..patch.patch import Factors

WeightForm = Literal["LoRA", "full delta"]
WEIGHT_FORMS: tuple[WeightForm, ...] = get_args(WeightForm)


class LowRank(torch.nn.Module):
    """Trainable factors beside a linear or convolutional layer: out += up(down(in)), float32 whatever the layer's precision.

    `down` starts uniform as in LoRA, drawn from `generator`; `up` starts at zero, so training starts from the model.
    """

    def __init__(self, layer: Any, rank: int, generator: torch.Generator, device: torch.device):
        super().__init__()
        weight = layer.weight
        self.convolution = _convolution(layer)
        bound = (weight.shape[1:].numel()) ** -0.5
        down = (torch.rand(rank, *weight.shape[1:], generator=generator) * 2 - 1) * bound
        self.down = torch.nn.Parameter(down.to(device))
        ones = (1,) * (weight.ndim - 2)
        self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], rank, *ones, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the factors add to the layer's output for an input x."""
        x = x.to(self.down.dtype)
        if self.convolution:
            return F.conv2d(F.conv2d(x, self.down, **self.convolution), self.up)
        return F.linear(F.linear(x, self.down), self.up)

    def energy(self, moment: torch.Tensor) -> torch.Tensor:
        """Mean |dW x|^2 over x of this second moment (in, in), differentiable; dW itself is never made."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        return ((up.T @ up) * (down @ moment @ down.T)).sum()

    def as_factors(self, rank: int) -> tuple[Factors, float]:
        """The factors, and the share of energy that is left behind: none."""
        return Factors(self.up.detach().cpu(), self.down.detach().cpu(), float(self.down.shape[0])), 0.0


class FullDelta(torch.nn.Module):
    """A trainable change of a layer's whole weight, from zero, float32; published training changes whole weights."""

    def __init__(self, layer: Any, rank: int, generator: torch.Generator, device: torch.device):
        super().__init__()
        self.convolution = _convolution(layer)
        self.delta = torch.nn.Parameter(torch.zeros(layer.weight.shape, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the delta adds to the layer's output for an input x."""
        x = x.to(self.delta.dtype)
        return F.conv2d(x, self.delta, **self.convolution) if self.convolution else F.linear(x, self.delta)

    def energy(self, moment: torch.Tensor) -> torch.Tensor:
        """Mean |dW x|^2 over x of this second moment (in, in), differentiable."""
        delta = self.delta.flatten(1)
        return ((delta @ moment) * delta).sum()

    def as_factors(self, rank: int) -> tuple[Factors, float]:
        """The best factors of at most `rank` (truncated SVD), and the share of energy (sum of squares) left behind."""
        shape = self.delta.shape
        up, down, left = best_factors(self.delta.flatten(1).detach().cpu().double(), rank)
        kept = up.shape[1]
        up = up.float().reshape(shape[0], kept, *(1 for _ in shape[2:]))
        return Factors(up, down.float().reshape(kept, *shape[1:]), float(kept)), left


Trainable = LowRank | FullDelta


def trainable(form: str, layer: Any, rank: int, generator: torch.Generator, device: torch.device) -> Trainable:
    """What is trained beside one layer, by its name in WEIGHT_FORMS."""
    return (LowRank if form == "LoRA" else FullDelta)(layer, rank, generator, device)


def _convolution(layer: Any) -> dict[str, Any]:
    if layer.weight.ndim != 4:
        return {}
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}


@contextlib.contextmanager
def injected(
    layers: Mapping[str, torch.nn.Module], trained: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
) -> Iterator[None]:
    """Adds the parts' output, trained ones or any function of a layer's input, to their layers' output while the context lasts."""
    handles = []

    def add(part: Callable[[torch.Tensor], torch.Tensor]):
        return lambda module, inputs, output: output + part(inputs[0]).to(output.dtype)

    try:
        for name, part in trained.items():
            handles.append(layers[name].register_forward_hook(add(part)))
        yield
    finally:
        for handle in handles:
            handle.remove()
