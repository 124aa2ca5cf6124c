"""Moments solved into low-rank factors: one ridge system for all layers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..model.protocol import ForgetModel
from ..patch.factors import weighted_range
from ..patch.patch import Factors, kohya_name
from ..patch.shrink import balanced
from .key_shift import shifted_keys
from .layer_solutions import low_rank_ups, measured, on_the_cpu, shifted_drifts
from .moments import Moments
from .robust import robust_moments
from .settings import PROJECTIONS, ClosedFormSettings
from .weight_choice import check_condition, choose_weights


def solve_factors(
    model: ForgetModel,
    halves: tuple[Moments, Moments],
    settings: ClosedFormSettings,
    rank: int,
    chosen: Callable[[dict], None],
    directions: dict[str, torch.Tensor] | None = None,
) -> tuple[dict[str, Factors], dict]:
    """The one system for all layers: factors by kohya name, and figures.

    `chosen(figures)` is called in between. `directions`: see queries.constant_directions; for a logit shift only. Raises
    ForgetError where the system's condition is hopeless in its precision.
    """
    names = [(layer.name, p) for layer in model.cross_attention() for p in PROJECTIONS[settings.train]]
    moments = halves[0] + halves[1]
    metric, norms = measured(names, model.weights(names, moments.cc.device), moments)
    ridge, preserve_weight, figures = choose_weights(
        *halves, metric, settings.ridge, settings.preserve_weight, settings.preservation
    )
    chosen(figures)
    solved = robust_moments(moments, metric, ridge, preserve_weight, settings.robust_rounds)
    system = solved.second_moment(ridge, preserve_weight)
    figures["condition"] = check_condition(system)
    shifted = [n for n in names if n[1] == "to_k" and settings.logit_shift]
    factors, layers = {}, {}
    if len(shifted) < len(names):
        edit = solved.solve(ridge, preserve_weight)
        basis, residual = weighted_range(edit, system, settings.tolerance, rank)
        down = basis.T @ edit
        low_rank = [name for name in names if name not in shifted]
        ups, layers = low_rank_ups(low_rank, model.weights(low_rank, basis.device), moments, norms, basis, down)
        figures |= {"rank": basis.shape[1], "rank_residual": residual}
        factors = on_the_cpu(ups, down)
    if shifted:
        heads = {layer.name: layer.heads for layer in model.cross_attention()}
        parts = shifted_keys(shifted, heads, directions or {}, settings.logit_shift, solved, ridge, preserve_weight)
        factors |= {kohya_name(*name): balanced(up, row) for name, (up, row) in parts.items()}
        layers |= shifted_drifts(parts, moments.pp.cpu(), norms)
        figures = {"rank": 1, "rank_residual": 0.0, **figures}
    return factors, figures | {"layers": layers}
