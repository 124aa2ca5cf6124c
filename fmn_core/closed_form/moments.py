"""Second moments of token embeddings: all that a closed-form solve and its figures need to know of prompts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

# Rows that are copied to a device at once: 16 MB for SDXL in float32.
ROWS_AT_ONCE = 2048


@dataclass
class Moments:
    """Second moments (dim, dim) of the token embeddings of a solve; what is summed over rows c, c*, p.

    A solve and all its figures need nothing else, so prompts are met one by one and memory does not grow with them. They are
    in one precision and on one device, where everything that is solved from them happens.
    """

    cc: torch.Tensor  # sum c c^T: sources
    tc: torch.Tensor  # sum c* c^T
    tt: torch.Tensor  # sum c* c*^T: targets
    pp: torch.Tensor  # sum p p^T: preserved
    sources: int = 0
    preserved: float = 0.0

    @classmethod
    def empty(cls, dim: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Moments:
        """Moments of no rows yet, of a text width `dim`."""
        cc, tc, tt, pp = torch.zeros(4, dim, dim, dtype=dtype, device=device)
        return cls(cc, tc, tt, pp)

    def add_pair(self, source: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Adds rows of a prompt (n, dim) and where each should go.

        Parameters
        ----------
        weight
            (n,): for how many rows each stands, 1 if not given; they sum to a whole number.
        """
        count = len(source) if weight is None else round(float(weight.sum()))
        source, target = _weighted(source, weight).to(self.cc), _weighted(target, weight).to(self.cc)
        self.cc += source.T @ source
        self.tc += target.T @ source
        self.tt += target.T @ target
        self.sources += count

    def add_preserved(self, rows: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Adds rows (n, dim) to keep; `weight` (n,): for how many rows each stands, 1 if not given."""
        count = float(len(rows) if weight is None else weight.sum())
        rows = _weighted(rows, weight).to(self.pp)
        self.pp += rows.T @ rows
        self.preserved += count

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.cc + other.cc,
            self.tc + other.tc,
            self.tt + other.tt,
            self.pp + other.pp,
            self.sources + other.sources,
            self.preserved + other.preserved,
        )

    def second_moment(self, ridge: float, preserve_weight: float) -> torch.Tensor:
        """M = lambda I + C^T C / n + w P^T P / p, lambda relative to the mean eigenvalue of the rest."""
        m = self.cc / max(1, self.sources) + preserve_weight * self.pp / max(1, self.preserved)
        return m + ridge * m.trace() / len(m) * torch.eye(len(m), dtype=m.dtype, device=m.device)

    def solve(self, ridge: float, preserve_weight: float) -> torch.Tensor:
        """E = (C* - C)^T C M^-1, so that dW = W E in every layer.

        The system is UCE's, with the ablated prompt as its target.
        """
        cross = (self.tc - self.cc) / max(1, self.sources)
        return torch.linalg.solve(self.second_moment(ridge, preserve_weight), cross.T).T

    def missed(self, edit: torch.Tensor, metric: torch.Tensor) -> float:
        """|W'C - V*| / |WC - V*| with V* = W C* and metric = W^T W: the share of the target that is missed."""
        moved = self.distance(torch.eye(len(edit), dtype=edit.dtype, device=edit.device) + edit)
        return ratio(float((moved * metric).sum()), float((self.distance(None) * metric).sum()))

    def distance(self, map_: torch.Tensor | None) -> torch.Tensor:
        """sum (A c - c*)(A c - c*)^T, A = I if none is given."""
        if map_ is None:
            return self.cc - self.tc.T - self.tc + self.tt
        cross = map_ @ self.tc.T
        return map_ @ self.cc @ map_.T - cross - cross.T + self.tt

    def drift(self, edit: torch.Tensor, metric: torch.Tensor) -> float:
        """|dW P| / |W P| with dW = W E and metric = W^T W: how far preserve prompts moved."""
        return ratio(float((edit @ self.pp @ edit.T * metric).sum()), float((self.pp * metric).sum()))


class MomentSums:
    """Adds rows to moments; on a device many prompts' rows at a time, as each prompt's own would be hundreds of small copies.

    `rows`: how many rows wait for their copy at most; by default none on the CPU, where the order of a sum decides the default
    patch's last bits.
    """

    def __init__(self, moments: Moments, rows: int | None = None):
        most = rows or (1 if moments.cc.device.type == "cpu" else ROWS_AT_ONCE)
        self._moments, self._most = moments, most
        self._pairs: list[tuple[torch.Tensor, ...]] = []
        self._preserved: list[tuple[torch.Tensor, ...]] = []

    def add_pair(self, *rows: torch.Tensor) -> None:
        """Adds a pair, see Moments.add_pair, all of whose arguments are given."""
        self._pairs = self._added(self._pairs, rows, self._moments.add_pair)

    def add_preserved(self, *rows: torch.Tensor) -> None:
        """Adds rows to keep, see Moments.add_preserved, with their weights."""
        self._preserved = self._added(self._preserved, rows, self._moments.add_preserved)

    def _added(self, waiting: list, rows: tuple[torch.Tensor, ...], add: Callable[..., None]) -> list:
        waiting = [*waiting, rows]
        if sum(len(entry[0]) for entry in waiting) < self._most:
            return waiting
        _add_joined(waiting, add)
        return []

    def result(self) -> Moments:
        """The moments of all rows that were added."""
        _add_joined(self._pairs, self._moments.add_pair)
        _add_joined(self._preserved, self._moments.add_preserved)
        self._pairs, self._preserved = [], []
        return self._moments


def _add_joined(waiting: list[tuple[torch.Tensor, ...]], add: Callable[..., None]) -> None:
    if waiting:
        add(*(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*waiting)))


def _weighted(rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    return rows if weight is None else rows * weight[:, None].sqrt()


def ratio(square: float, reference: float) -> float:
    """Ratio of two norms, from their squares; 0 where rounding has made the first negative."""
    return math.sqrt(max(0.0, square) / max(reference, 1e-300))
