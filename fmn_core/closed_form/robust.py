"""Closed forms that also close the back doors: inputs that bring a forgotten concept back are forgotten too."""

from __future__ import annotations

import torch

from .moments import Moments

# How large an input that revives a concept may grow: the regulariser of its search, relative to the weights' mean eigenvalue.
REVIVAL_RIDGE = 0.1


def revival(edit: torch.Tensor, metric: torch.Tensor, ridge: float = REVIVAL_RIDGE) -> torch.Tensor:
    """The map c -> c' to the input that makes the edited layers do what the layers before did to c: all concepts at once.

    c' minimises sum |W' c' - W c|^2 + lambda |c'|^2 over the layers, W' = W (I + E): c' = (lambda I + A^T G A)^-1 A^T G c with
    A = I + E and G = `metric`, the sum of W^T W; lambda relative to G's mean eigenvalue. Source: RECE (Gong et al., ECCV 2024).
    """
    a = edit + torch.eye(len(edit), dtype=edit.dtype, device=edit.device)
    gram = a.T @ metric @ a
    gram = gram + ridge * metric.trace() / len(metric) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, a.T @ metric)


def robust_moments(
    moments: Moments, metric: torch.Tensor, ridge: float, preserve_weight: float, rounds: int
) -> Moments:
    """The moments of a solve with the inputs that would revive its concepts as further rows, found anew in every round."""
    robust = moments
    for _ in range(rounds):
        edit = robust.solve(ridge, preserve_weight)
        robust = robust + moments.moved_sources(revival(edit, metric))
    return robust
