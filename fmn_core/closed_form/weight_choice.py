"""Ridge and preserve weight of a closed-form solve, chosen by what they do to prompts left out of it."""

from __future__ import annotations

import math

import torch

from ..errors import ForgetError
from .moments import Moments

AUTO = 0.0
# What `auto` chooses from: ridge relative to the mean eigenvalue, and the weight of preserve prompts.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3)
PRESERVE_WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0)
# How much a moved preserve prompt counts against a missed target, both as relative errors on what was left out.
# Chosen on three concepts of the miniature, mostly with half of the others listed: 0.7 keeps less, 1.4 and 2.0 lose the style
# of some prompts, 2.8 leaves traces of the concept.
DRIFT_PRICE = 1.0


def choose_weights(
    fitted: Moments,
    left_out: Moments,
    metric: torch.Tensor,
    ridge: float = AUTO,
    preserve_weight: float = AUTO,
    preservation: float = 1.0,
) -> tuple[float, float, dict]:
    """Chooses ridge and preserve weight by what they do to templates and preserve prompts left out of the solve.

    One half is solved for; on the other, other templates and other names, the share of the target missed and the drift
    of preserve prompts are measured, and the sum of their squares, drift weighted by `preservation` times DRIFT_PRICE, decides. Nothing but
    the algebra is used, so the same rule serves models of any width. `metric`: W^T W over the layers (dim, dim). A weight that is not AUTO is
    kept. Returns both, and figures.
    """
    ridges = RIDGES if ridge == AUTO else (ridge,)
    weights = PRESERVE_WEIGHTS if preserve_weight == AUTO else (preserve_weight,)
    if len(ridges) * len(weights) > 1:
        score = _Score(fitted, left_out, metric, DRIFT_PRICE * preservation)
        scored = [(s, r, w) for w in weights for s, r in zip(score.of(w, ridges), ridges)]
        _, ridge, preserve_weight = min(scored)
    edit = fitted.solve(ridge, preserve_weight)
    figures = {"held_out_missed": left_out.missed(edit, metric), "held_out_drift": left_out.drift(edit, metric)}
    return ridge, preserve_weight, figures | {"ridge": ridge, "preserve_weight": preserve_weight}


def check_condition(system: torch.Tensor) -> float:
    """The condition number of a system; raises ForgetError where its precision leaves nothing of a solution."""
    values = torch.linalg.eigvalsh(system)
    condition = float(values[-1] / values[0]) if values[0] > 0 else math.inf
    if not condition < 1 / torch.finfo(system.dtype).eps:
        raise ForgetError(
            f"Expected a system that {str(system.dtype).removeprefix('torch.')} can solve, got one of condition {condition:.1e}. "
            "Solve in float64 on the CPU, or with a larger ridge."
        )
    return condition


class _Score:
    """missed^2 + (price drift)^2 of the edits E that some ridges give, from one eigendecomposition for all of them.

    E = X Q D Q^T with S = Q L Q^T, the system without its ridge, and D = 1 / (L + ridge); with Y = X Q the score is
    1 + 2 d . diag(Q^T N G Y) + d^T (Q^T R Q o Y^T G Y) d in the entries d of D: no solve and no product of matrices is left for a ridge.
    """

    def __init__(self, fitted: Moments, left_out: Moments, metric: torch.Tensor, price: float):
        self.fitted, self.metric = fitted, metric
        target = (left_out.distance(None) * metric).sum().clamp_min(1e-300)
        drift = (left_out.pp * metric).sum().clamp_min(1e-300)
        self.cross = (fitted.tc - fitted.cc) / max(1, fitted.sources)
        self.linear = (left_out.cc - left_out.tc.T) @ metric / target
        self.quadratic = left_out.cc / target + price**2 * left_out.pp / drift

    def of(self, preserve_weight: float, ridges: tuple[float, ...]) -> list[float]:
        system = self.fitted.second_moment(0.0, preserve_weight)
        values, q = torch.linalg.eigh(system)
        y = self.cross @ q
        linear = (q * (self.linear @ y)).sum(0)
        quadratic = (q.T @ self.quadratic @ q) * (y.T @ self.metric @ y)
        mean = values.mean()
        scores = []
        for ridge in ridges:
            d = 1 / (values.clamp_min(0) + ridge * mean)
            scores.append(float(1 + 2 * linear @ d + d @ quadratic @ d))
        return scores
