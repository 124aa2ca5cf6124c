"""Chooses the ridge and the preserve weight of a closed-form solve by cross-validation."""

from __future__ import annotations

import math

import torch

from ..errors import ForgetError
from .moments import Moments

AUTO = 0.0
# Candidates of the automatic choice: ridges relative to the mean eigenvalue, and weights of the preserve set.
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2)
PRESERVE_WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0)
# Weight of the drift against the missed share of the target, both relative errors on held-out rows. On three concepts of the
# miniature, mostly with half of the others listed, 0.7 kept less, 1.4 and 2.0 lost the style of some prompts, and 2.8 left traces
# of the concept.
DRIFT_PRICE = 1.0


def choose_weights(
    fitted: Moments,
    left_out: Moments,
    metric: torch.Tensor,
    ridge: float = AUTO,
    preserve_weight: float = AUTO,
    preservation: float = 1.0,
) -> tuple[float, float, dict]:
    """Chooses ridge and preserve weight by their errors on held-out templates and preserve prompts.

    Each candidate is solved on one half. On the other half it misses a share of the target, m, and moves preserved rows by the drift
    d; the candidate with the least m^2 + (DRIFT_PRICE preservation d)^2 is chosen. No picture is drawn, so the rule is the same for
    models of any width.

    Parameters
    ----------
    metric
        W^T W over the layers (dim, dim), see `measured`.
    ridge, preserve_weight
        A value other than AUTO is kept.

    Returns
    -------
    tuple[float, float, dict]
        Ridge, preserve weight, and figures: both, and the held-out missed share and drift of the choice.
    """
    ridges = RIDGES if ridge == AUTO else (ridge,)
    weights = PRESERVE_WEIGHTS if preserve_weight == AUTO else (preserve_weight,)
    if len(ridges) * len(weights) > 1:
        held_out = _HeldOutError(fitted, left_out, metric, DRIFT_PRICE * preservation)
        candidates = [(error, r, w) for w in weights for error, r in zip(held_out.errors(w, ridges), ridges)]
        _, ridge, preserve_weight = min(candidates)
    edit = fitted.solve(ridge, preserve_weight)
    figures = {"held_out_missed": left_out.missed(edit, metric), "held_out_drift": left_out.drift(edit, metric)}
    return ridge, preserve_weight, figures | {"ridge": ridge, "preserve_weight": preserve_weight}


def check_condition(system: torch.Tensor) -> float:
    """Condition number of a system; raises ForgetError where it exceeds what its precision can solve."""
    values = torch.linalg.eigvalsh(system)
    condition = float(values[-1] / values[0]) if values[0] > 0 else math.inf
    if not condition < 1 / torch.finfo(system.dtype).eps:
        raise ForgetError(
            f"Expected a system that {str(system.dtype).removeprefix('torch.')} can solve, got one of condition {condition:.1e}. "
            "Solve in float64 on the CPU, or with a larger ridge."
        )
    return condition


class _HeldOutError:
    """Held-out error of several ridges from one eigendecomposition.

    Notes
    -----
    With S = Q L Q^T the system without its ridge, X the cross moment and Y = X Q, the edit is E = Y D Q^T, D = diag(d) =
    1 / (L + ridge), and the error is 1 + 2 d . diag(Q^T N G Y) + d^T (Q^T R Q o Y^T G Y) d. Only d depends on the ridge.
    """

    def __init__(self, fitted: Moments, left_out: Moments, metric: torch.Tensor, price: float):
        self.fitted, self.metric = fitted, metric
        target = (left_out.distance(None) * metric).sum().clamp_min(1e-300)
        drift = (left_out.pp * metric).sum().clamp_min(1e-300)
        self.cross = (fitted.tc - fitted.cc) / max(1, fitted.sources)
        self.linear = (left_out.cc - left_out.tc.T) @ metric / target
        self.quadratic = left_out.cc / target + price**2 * left_out.pp / drift

    def errors(self, preserve_weight: float, ridges: tuple[float, ...]) -> list[float]:
        """Error of each ridge at one preserve weight."""
        system = self.fitted.second_moment(0.0, preserve_weight)
        values, q = torch.linalg.eigh(system)
        y = self.cross @ q
        linear = (q * (self.linear @ y)).sum(0)
        quadratic = (q.T @ self.quadratic @ q) * (y.T @ self.metric @ y)
        # Eigenvalues of directions that no row has are 0.
        mean = values.mean() * (len(values) / self.fitted.width)
        errors = []
        for ridge in ridges:
            d = 1 / (values.clamp_min(0) + ridge * mean)
            errors.append(float(1 + 2 * linear @ d + d @ quadratic @ d))
        return errors
