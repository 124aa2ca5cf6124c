"""The losses of Forget-Me-Not, and the preservation term."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from ..model.protocol import ForgetModel
from .trainable import Trainable

LossForm = Literal["paper", "released code"]
VisualWeighting = Literal["min-SNR", "uniform"]
LOSS_FORMS: tuple[LossForm, ...] = get_args(LossForm)
VISUAL_WEIGHTINGS: tuple[VisualWeighting, ...] = get_args(VisualWeighting)
MIN_SNR_GAMMA = 5.0


def attention_loss(columns: list[torch.Tensor], form: str) -> torch.Tensor:
    """L_attn over the concept's columns A_k[:, I] of all layers, each (..., pixels, |I|).

    "paper": sum_k sum a^2 (eq. 7, Algorithm 1). "released code": one un-squared norm over all layers.
    """
    total = torch.stack([(a**2).sum() for a in columns]).sum()
    return total if form == "paper" else total.clamp_min(1e-20).sqrt()


def visual_loss(predicted: torch.Tensor, wanted: torch.Tensor, sigma: torch.Tensor, weighting: str) -> torch.Tensor:
    """L_vis = MSE(x^0, x~0) (eq. 8 and 9) on the model's prediction of x0, whatever its parameterisation.

    predicted, wanted: (B, C, h, w); sigma (B,). For eps-prediction the error of x0 grows as sigma: "min-SNR" weights by
    min(1 / sigma^2, 5) / 5 (Hang et al., Efficient Diffusion Training via Min-SNR), "uniform" does not.
    """
    return (((predicted - wanted) ** 2).mean((1, 2, 3)) * _level_weight(sigma, weighting)).mean()


def visual_scale(kept: torch.Tensor, zeroed: torch.Tensor, sigmas: torch.Tensor, weighting: str) -> float:
    """What L_vis starts from, averaged over noise levels: that of a model which predicts x0 (`kept`) where x~0 is wanted.

    kept, zeroed: (N, C, h, w); sigmas: the levels that are drawn. A single draw is no measure: under "min-SNR" the
    levels' losses differ by orders of magnitude.
    """
    error = ((kept - zeroed) ** 2).mean() * _level_weight(sigmas, weighting).mean()
    return max(float(error), 1e-12)


def _level_weight(sigma: torch.Tensor, weighting: str) -> torch.Tensor:
    if weighting == "min-SNR":
        return (sigma**-2).clamp(max=MIN_SNR_GAMMA) / MIN_SNR_GAMMA
    return torch.ones_like(sigma)


class Preservation:
    """|(W' - W) P^T|^2 / |W P^T|^2, mean over the trained keys and values."""

    def __init__(self, model: ForgetModel, trained: dict[str, Trainable], preserve: torch.Tensor):
        rows = preserve.double()
        self.moment = (rows.T @ rows / len(rows)).float().to(model.device)
        self.terms = []
        names = [(layer.name, p) for layer in model.cross_attention() for p in ("to_k", "to_v")]
        names = [name for name in names if ".".join(name) in trained]
        for name, w in zip(names, model.weights(names, model.device)):
            self.terms.append((trained[".".join(name)], ((w @ self.moment) * w).sum()))

    def __call__(self) -> torch.Tensor:
        """The mean squared relative movement of the preserve prompts' keys and values, a scalar."""
        if not self.terms:
            return torch.zeros((), device=self.moment.device)
        return torch.stack([part.energy(self.moment) / scale for part, scale in self.terms]).mean()
