"""Factors and figures of every layer from the one edit they share, with one layer's weights in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..model.entries import TextEntry
from ..model.protocol import ForgetModel
from ..model.transfer import read
from ..patch.patch import Factors, kohya_name
from ..patch.shrink import balanced
from .moments import Moments, ratio

Norms = dict[TextEntry, tuple[float, float]]


def measured(
    entries: Sequence[TextEntry], weights: Sequence[torch.Tensor], moments: Moments
) -> tuple[torch.Tensor, Norms]:
    """Metric of the layers, and the norms to which each layer's errors are relative.

    Returns
    -------
    tuple[torch.Tensor, Norms]
        Mean of W^T W / |W|^2 over the layers (dim, dim); per layer |W (C - C*)|^2 and |W P|^2.

    Notes
    -----
    float32 suffices: the products weigh relative errors against one another, and no system is solved from them.
    """
    metric, squares = torch.zeros_like(moments.cc), []
    target, preserved = moments.distance(None).float(), moments.pp.float()
    for w in weights:
        gram = w.T @ w
        metric += gram / (w**2).sum() / len(weights)
        squares += [(gram * target).sum(), (gram * preserved).sum()]
    values = read(squares)
    return metric, dict(zip(entries, zip(values[::2], values[1::2])))


def low_rank_ups(
    entries: Sequence[TextEntry],
    weights: Sequence[torch.Tensor],
    moments: Moments,
    norms: Norms,
    basis: torch.Tensor,
    down: torch.Tensor,
) -> tuple[dict[TextEntry, torch.Tensor], dict[str, dict[str, float]]]:
    """Factor U = W B of every layer, and the layer's figures.

    Parameters
    ----------
    basis, down
        B (dim, rank) and D (rank, dim), shared by all layers: dW = W B D.

    Returns
    -------
    tuple
        U (out, rank) by entry; by its dotted name the share of the target missed, |W'C - W C*| / |W C - W C*|, and the drift of
        preserved rows, |dW P| / |W P|.

    Notes
    -----
    |W'C - W C*|^2 = |W (C - C*)|^2 + 2 tr(U D N W^T) + tr(U^T U D C C^T D^T) with N = C C^T - C C*^T.
    """
    steered, concept, kept = down @ (moments.cc - moments.tc.T), down @ moments.cc @ down.T, down @ moments.pp @ down.T
    ups, squares = {}, []
    for entry, w in zip(entries, weights):
        w = w.to(basis)
        up = ups[entry] = w @ basis
        gram = up.T @ up
        squares += [2 * (steered * (up.T @ w)).sum() + (gram * concept).sum(), (gram * kept).sum()]
    values, figures = read(squares), {}
    for entry, change, drift in zip(entries, values[::2], values[1::2]):
        target, preserved = norms[entry]
        figures[entry.path] = {"missed": ratio(target + change, target), "drift": ratio(drift, preserved)}
    return ups, figures


def on_the_cpu(model: ForgetModel, ups: dict[TextEntry, torch.Tensor], down: torch.Tensor) -> dict[str, Factors]:
    """Balanced factors by kohya name, brought from the device to the CPU in one copy; 0 in columns that do not read text."""
    cpu_ups, down = torch.cat(list(ups.values())).cpu().split([len(up) for up in ups.values()]), down.cpu()
    factors = {}
    for entry, up in zip(ups, cpu_ups):
        layer = factors[kohya_name(*entry.name)] = balanced(up, down)
        if entry.columns is not None:
            width = model.weights([entry.name])[0].shape[1]
            layer.down = torch.nn.functional.pad(layer.down, (0, width - entry.columns))
    return factors
