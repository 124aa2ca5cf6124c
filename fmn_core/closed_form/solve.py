"""Solves moments into low-rank factors: one ridge system for all layers that read the same text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..model.entries import TextEntry, text_weights
from ..model.lazy import LazySequence
from ..model.protocol import ForgetModel
from ..patch.factors import weighted_range
from ..patch.patch import Factors
from .layer_solutions import low_rank_ups, measured, on_the_cpu
from .moments import Moments
from .settings import ClosedFormSettings
from .shortfall import overshoot_for
from .weight_choice import check_condition, choose_weights


def solve_factors(
    model: ForgetModel,
    entries: Sequence[TextEntry],
    halves: tuple[Moments, Moments],
    settings: ClosedFormSettings,
    concepts: int,
    on_weights: Callable[[dict], None],
    unseen: Moments | None = None,
) -> tuple[dict[str, Factors], dict]:
    """Solves the ridge system and factorises its edit for every layer.

    Parameters
    ----------
    entries
        The layers, which all read what the moments are of.
    halves
        Moments of the two halves of `collect_moments`. Their sum is solved; the halves choose ridge and preserve weight.
    concepts
        Number of concepts; the rank of the settings is an upper bound for each.
    on_weights
        Called with the figures so far once ridge and preserve weight are chosen.
    unseen
        Moments of contexts that no template has. The edit is scaled so that it goes far enough there, see `overshoot_for`.

    Returns
    -------
    tuple[dict[str, Factors], dict]
        Factors by kohya name, and figures: chosen weights, condition, rank, and per layer the share of the target missed and the drift.

    Raises
    ------
    ForgetError
        Where the system is too ill-conditioned for its precision.
    """
    moments = halves[0] + halves[1]
    weights = _weights(model, entries, moments)
    metric, norms = measured(entries, weights, moments)
    ridge, preserve_weight, figures = choose_weights(
        *halves, metric, settings.ridge, settings.preserve_weight, settings.preservation
    )
    on_weights(figures)
    system = moments.second_moment(ridge, preserve_weight)
    figures["condition"] = check_condition(system)
    edit = moments.solve(ridge, preserve_weight)
    if unseen is not None:
        figures["overshoot"] = overshoot_for(unseen, edit, metric, concepts)
        edit = edit * (1.0 + figures["overshoot"])
    basis, residual = weighted_range(edit, system, settings.tolerance, settings.rank * concepts)
    down = basis.T @ edit
    ups, layers = low_rank_ups(entries, weights, moments, norms, basis, down)
    figures |= {"rank": basis.shape[1], "rank_residual": residual, "layers": layers}
    if moments.basis is not None:
        down = down @ moments.basis.T
    return on_the_cpu(model, ups, down), figures


def _weights(model: ForgetModel, entries: Sequence[TextEntry], moments: Moments) -> Sequence[torch.Tensor]:
    """Effective weights of the layers in the coordinates of the moments, computed on access."""
    weights, basis = text_weights(model, entries, moments.cc.device), moments.basis
    if basis is None:
        return weights
    return LazySequence(len(entries), lambda n: _in_coordinates(weights[n], basis))


def _in_coordinates(weight: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    return weight @ basis.to(weight.dtype)
