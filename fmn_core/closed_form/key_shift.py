"""Keys in closed form: attention logits of a concept's tokens lowered by a constant, at every pixel."""

from __future__ import annotations

import torch

from .moments import Moments
from .weight_choice import check_condition


def shifted_keys(
    names: list[tuple[str, str]],
    heads: dict[str, int],
    directions: dict[str, torch.Tensor],
    tau: float,
    moments: Moments,
    ridge: float,
    preserve_weight: float,
) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]:
    """Factors up (out, 1) and down (1, dim), on the CPU, per key projection (layer, to_k): the ridge solve for k* = k - tau sqrt(d) u of the rows that name the concept.

    `directions`: u of every layer, see queries.constant_directions; d: width of a head. Preserved rows keep their keys. Since
    every named row goes the same way, rank 1 is exact, and `down` is shared by all layers: (mean of the named rows) M^-1. Raises
    ForgetError where the system is hopeless.
    """
    system = moments.of_names().second_moment(ridge, preserve_weight)
    check_condition(system)
    down = torch.linalg.solve(system, moments.named / max(1, moments.names))[None].cpu()
    key_factors = {}
    for name in names:
        u = directions[name[0]].to(down)
        width = len(u) // heads[name[0]]
        key_factors[name] = (-tau * width**0.5 * u[:, None], down)
    return key_factors
