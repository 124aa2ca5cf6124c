"""The losses of Forget-Me-Not and the preservation term."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from ..model.entries import CONTEXT
from ..model.protocol import ForgetModel
from .trainable import Trainable

LossForm = Literal["paper", "released code"]
VisualWeighting = Literal["min-SNR", "uniform"]
LOSS_FORMS: tuple[LossForm, ...] = get_args(LossForm)
VISUAL_WEIGHTINGS: tuple[VisualWeighting, ...] = get_args(VisualWeighting)
MIN_SNR_GAMMA = 5.0


def attention_loss(columns: list[torch.Tensor], form: str) -> torch.Tensor:
    """Attention re-steering loss L_attn, a scalar.

    Parameters
    ----------
    columns
        The concept's columns A_k[:, I] of every layer k, each (..., pixels, |I|).
    form
        "paper": sum_k sum a^2 (eq. 7, Algorithm 1). "released code": one norm, not squared, over all layers.
    """
    total = torch.stack([(a**2).sum() for a in columns]).sum()
    return total if form == "paper" else total.clamp_min(1e-20).sqrt()


def visual_loss(predicted: torch.Tensor, zeroed: torch.Tensor, sigma: torch.Tensor, weighting: str) -> torch.Tensor:
    """Visual denoising loss L_vis = MSE(x^0, x~0) (eq. 8 and 9), a scalar.

    Parameters
    ----------
    predicted, zeroed
        The model's prediction of x0, and the latent x~0 with zeroed attention, (B, C, h, w).
    sigma
        Noise levels (B,).
    weighting
        "min-SNR" weights noise levels by min(1 / sigma^2, 5) / 5 (Hang et al., Efficient Diffusion Training via Min-SNR), since the
        error of x0 grows as sigma in eps-prediction; "uniform" weights all alike.
    """
    return (((predicted - zeroed) ** 2).mean((1, 2, 3)) * _level_weight(sigma, weighting)).mean()


def visual_scale(kept: torch.Tensor, zeroed: torch.Tensor, sigmas: torch.Tensor, weighting: str) -> float:
    """Value of L_vis before training, averaged over noise levels.

    Parameters
    ----------
    kept, zeroed
        Latents (N, C, h, w) of image pairs. Before training the model predicts `kept`, and L_vis compares it with `zeroed`.
    sigmas
        The noise levels that are drawn.

    Notes
    -----
    The value on a single draw is no measure: under "min-SNR" the levels' losses differ by orders of magnitude.
    """
    error = ((kept - zeroed) ** 2).mean() * _level_weight(sigmas, weighting).mean()
    return max(float(error), 1e-12)


def _level_weight(sigma: torch.Tensor, weighting: str) -> torch.Tensor:
    if weighting == "min-SNR":
        return (sigma**-2).clamp(max=MIN_SNR_GAMMA) / MIN_SNR_GAMMA
    return torch.ones_like(sigma)


class Preservation:
    """Preservation term |(W' - W) P^T|^2 / |W P^T|^2, averaged over the trained layers that read the context."""

    def __init__(self, model: ForgetModel, trained: dict[str, Trainable], preserve: torch.Tensor):
        rows = preserve.double()
        self.moment = (rows.T @ rows / len(rows)).float().to(model.device)
        self.terms = []
        entries = [entry for entry in model.text_entries() if entry.reads == CONTEXT and entry.path in trained]
        for entry, w in zip(entries, model.weights([entry.name for entry in entries], model.device)):
            self.terms.append((trained[entry.path], ((w @ self.moment) * w).sum()))

    def __call__(self) -> torch.Tensor:
        """Mean squared relative movement of the preserve prompts' keys and values, a scalar."""
        if not self.terms:
            return torch.zeros((), device=self.moment.device)
        return torch.stack([delta.energy(self.moment) / scale for delta, scale in self.terms]).mean()
