"""Loss scaling, which keeps gradients from vanishing in half-precision activations."""

from __future__ import annotations

from collections.abc import Iterable

import torch

INITIAL, SMALLEST, LARGEST = 2.0**10, 2.0**-14, 2.0**16
# Steps without an overflow after which the scale is doubled.
GROWTH_INTERVAL = 200


class LossScale:
    """A factor on the loss that is halved when gradients overflow and doubled after many steps without overflow.

    Parameters
    ----------
    precision
        Precision in which the model computes. Only float16 needs scaling; in others the factor is 1.

    Notes
    -----
    It works on every kind of device, because it reads nothing but the gradients' norm. Source: Micikevicius et al., Mixed Precision
    Training, section 3.2.
    """

    def __init__(self, precision: torch.dtype):
        self.enabled = precision == torch.float16
        self.value = INITIAL if self.enabled else 1.0
        self._good_steps = 0

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss times the factor, on which to call `backward`."""
        return loss * self.value if self.enabled else loss

    @torch.no_grad()
    def unscale(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Divides the gradients by the factor."""
        if self.enabled:
            for gradient in (p.grad for p in parameters if p.grad is not None):
                gradient.div_(self.value)

    def keep(self) -> None:
        """Counts a step whose gradients were finite."""
        self._good_steps += 1
        if self.enabled and self._good_steps % GROWTH_INTERVAL == 0:
            self.value = min(self.value * 2, LARGEST)

    def reduce(self) -> bool:
        """Halves the factor after gradients that were not finite. Returns False where it cannot become smaller."""
        if not self.enabled or self.value <= SMALLEST:
            return False
        self.value, self._good_steps = self.value / 2, 0
        return True
