"""Low-rank adapters beside the layers of a UNet, as SPM and MACE train them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F


class Adapters:
    """One low-rank adapter a layer: the layer gives y + strength * up(down(x)), with alpha = rank.

    `down` starts random and `up` at zero, so that new adapters change nothing.

    Parameters
    ----------
    layers
        Linear layers and convolutions by name; a convolution's `down` has its kernel, stride and padding.
    deviation
        Standard deviation of `down`'s normal distribution; 0: Kaiming's uniform distribution with a = sqrt(5), as in LoRA.
    """

    def __init__(self, layers: dict[str, Any], rank: int, seed: int, deviation: float = 0.0):
        generator = torch.Generator().manual_seed(seed)
        self.layers = layers
        self.down, self.up = {}, {}
        for name, layer in layers.items():
            down = torch.empty(rank, *layer.weight.shape[1:])
            if deviation:
                torch.nn.init.normal_(down, std=deviation, generator=generator)
            else:
                torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
            up = torch.zeros(layer.weight.shape[0], rank)
            self.down[name], self.up[name] = (t.to(layer.weight.device) for t in (down, up))

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All factors, for an optimiser."""
        return [*self.down.values(), *self.up.values()]

    def bytes_in_half(self) -> int:
        """Size of all factors in half precision, in bytes."""
        return sum(2 * t.numel() for t in self.parameters)

    def require_gradients(self, trainable: bool) -> None:
        """Makes all factors trainable, or constant."""
        for tensor in self.parameters:
            tensor.requires_grad_(trainable)

    @contextlib.contextmanager
    def applied(self, strength: torch.Tensor | float = 1.0) -> Iterator[None]:
        """Attaches the adapters to the UNet for as long as the context lasts.

        Parameters
        ----------
        strength
            One number, or one for each picture (B,). A batch of k * B rows repeats them, as classifier-free guidance does.
        """
        handles = [layer.register_forward_hook(self._hook(name, strength)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, strength: torch.Tensor | float):
        def add(layer, inputs, output):
            x, down, up = inputs[0], self.down[name], self.up[name]
            if down.ndim == 2:
                change = x @ down.T.to(x) @ up.T.to(x)
            else:
                low = F.conv2d(x, down.to(x), stride=layer.stride, padding=layer.padding)
                change = F.conv2d(low, up.to(x)[..., None, None])
            return output + change * _per_picture(strength, output)

        return add


def _per_picture(strength: torch.Tensor | float, output: torch.Tensor) -> torch.Tensor | float:
    if not isinstance(strength, torch.Tensor):
        return strength
    repeated = strength.to(output).repeat(len(output) // len(strength))
    return repeated.view(-1, *[1] * (output.ndim - 1))
