"""Loss scaling: gradients that pass through half-precision activations would vanish without it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

INITIAL, SMALLEST, LARGEST = 2.0**10, 2.0**-14, 2.0**16
# Steps without an overflow after which the scale is doubled.
GROWTH_INTERVAL = 200


class LossScale:
    """A factor on the loss that is halved when gradients overflow and doubled when they have not for a while; 1 where it is not needed.

    Works on every kind of device: it needs no operators of its own, and no look at the gradients besides their norm.
    Source: Micikevicius et al., Mixed Precision Training, section 3.2.

    Parameters
    ----------
    precision : what the model computes in; only float16 needs scaling.
    """

    def __init__(self, precision: torch.dtype):
        self.enabled = precision == torch.float16
        self.value = INITIAL if self.enabled else 1.0
        self._good_steps = 0

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to call `backward` on."""
        return loss * self.value if self.enabled else loss

    @torch.no_grad()
    def unscale(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Takes the factor out of the gradients."""
        if self.enabled:
            for gradient in (p.grad for p in parameters if p.grad is not None):
                gradient.div_(self.value)

    def keep(self) -> None:
        """After a step whose gradients were finite."""
        self._good_steps += 1
        if self.enabled and self._good_steps % GROWTH_INTERVAL == 0:
            self.value = min(self.value * 2, LARGEST)

    def reduce(self) -> bool:
        """After gradients that were not finite: whether a smaller scale is left with which the step can be repeated."""
        if not self.enabled or self.value <= SMALLEST:
            return False
        self.value, self._good_steps = self.value / 2, 0
        return True
