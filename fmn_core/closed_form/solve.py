"""Moments solved into low-rank factors: one ridge system for all layers."""

from __future__ import annotations

from collections.abc import Callable

from ..model.protocol import ForgetModel
from ..patch.factors import weighted_range
from ..patch.patch import Factors
from .layer_solutions import low_rank_ups, measured, on_the_cpu
from .moments import Moments
from .settings import PROJECTIONS, ClosedFormSettings
from .weight_choice import check_condition, choose_weights


def solve_factors(
    model: ForgetModel,
    halves: tuple[Moments, Moments],
    settings: ClosedFormSettings,
    rank: int,
    chosen: Callable[[dict], None],
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
    system = moments.second_moment(ridge, preserve_weight)
    figures["condition"] = check_condition(system)
    edit = moments.solve(ridge, preserve_weight)
    basis, residual = weighted_range(edit, system, settings.tolerance, rank)
    down = basis.T @ edit
    ups, layers = low_rank_ups(names, model.weights(names, basis.device), moments, norms, basis, down)
    figures |= {"rank": basis.shape[1], "rank_residual": residual, "layers": layers}
    return on_the_cpu(ups, down), figures
