"""Second moments of encoded prompts: all that a closed-form solve and its figures need of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

# Rows that are copied to a device at once: 16 MB for SDXL in float32.
ROWS_AT_ONCE = 2048


@dataclass
class Moments:
    """Second moments (dim, dim) of the rows of a solve: sources c, their targets c*, and preserved rows p.

    Prompts are added one by one, so that memory does not grow with their number. The solve runs in the moments' precision, on
    their device.

    Attributes
    ----------
    cc, tc, tt, pp
        Sums of c c^T, c* c^T, c* c*^T and p p^T.
    sources, preserved
        Numbers of rows that were summed, weights included.
    basis
        Orthonormal basis (width, dim) of a space that holds all rows, whose coordinates are summed then; None: the rows themselves.
    """

    cc: torch.Tensor
    tc: torch.Tensor
    tt: torch.Tensor
    pp: torch.Tensor
    sources: int = 0
    preserved: float = 0.0
    basis: torch.Tensor | None = None

    @classmethod
    def empty(
        cls,
        width: int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        basis: torch.Tensor | None = None,
    ) -> Moments:
        """Moments without rows, for contexts of this width, in the coordinates of a basis (width, dim) if there is one."""
        dim = width if basis is None else basis.shape[1]
        cc, tc, tt, pp = torch.zeros(4, dim, dim, dtype=dtype, device=device)
        return cls(cc, tc, tt, pp, basis=None if basis is None else basis.to(cc))

    def in_basis(self, basis: torch.Tensor) -> Moments:
        """These moments, of coordinates, with the basis (width, dim) that the coordinates refer to."""
        return replace(self, basis=basis.to(self.cc))

    def without_rows(self) -> Moments:
        """Moments without rows, of the same width and basis."""
        return Moments.empty(self.width, self.cc.dtype, self.cc.device, self.basis)

    @property
    def width(self) -> int:
        """Width of the rows."""
        return len(self.cc) if self.basis is None else len(self.basis)

    def _coordinates(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(self.cc)
        return rows if self.basis is None else rows @ self.basis

    def add_pair(self, source: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Adds source rows of a prompt (n, dim) and the target of each (n, dim).

        Parameters
        ----------
        weight
            Number of rows that each row stands for (n,), 1 by default; the weights sum to a whole number.
        """
        count = len(source) if weight is None else round(float(weight.sum()))
        source, target = (self._coordinates(_weighted(rows, weight)) for rows in (source, target))
        self.cc += source.T @ source
        self.tc += target.T @ source
        self.tt += target.T @ target
        self.sources += count

    def add_preserved(self, rows: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Adds preserved rows (n, dim); `weight` (n,) is the number of rows that each stands for, 1 by default."""
        count = float(len(rows) if weight is None else weight.sum())
        rows = self._coordinates(_weighted(rows, weight))
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
            self.basis,
        )

    def second_moment(self, ridge: float, preserve_weight: float) -> torch.Tensor:
        """Matrix M = lambda I + C C^T / n + mu P P^T / p of the solve, lambda relative to the mean eigenvalue of the rest."""
        m = self.cc / max(1, self.sources) + preserve_weight * self.pp / max(1, self.preserved)
        return m + ridge * m.trace() / self.width * torch.eye(len(m), dtype=m.dtype, device=m.device)

    def solve(self, ridge: float, preserve_weight: float) -> torch.Tensor:
        """Edit E = (C* - C) C^T / n M^-1 of the input side, shared by all layers: dW = W E (UCE, eq. 7, with C* as target)."""
        cross = (self.tc - self.cc) / max(1, self.sources)
        return torch.linalg.solve(self.second_moment(ridge, preserve_weight), cross.T).T

    def missed(self, edit: torch.Tensor, metric: torch.Tensor) -> float:
        """Share of the way to the target that is left: |W'C - W C*| / |W C - W C*|, with `metric` = W^T W."""
        moved = self.distance(torch.eye(len(edit), dtype=edit.dtype, device=edit.device) + edit)
        return ratio(float((moved * metric).sum()), float((self.distance(None) * metric).sum()))

    def reached(self, edit: torch.Tensor, metric: torch.Tensor) -> float:
        """Share of the way to the target that an edit goes: the mean projection of W E C on W (C* - C), relative to its length."""
        way = self.tc - self.cc
        return float((edit @ way.T * metric).sum() / (self.distance(None) * metric).sum().clamp_min(1e-300))

    def distance(self, map_: torch.Tensor | None) -> torch.Tensor:
        """Sum of (A c - c*)(A c - c*)^T over the sources, with A = `map_`, by default the identity."""
        if map_ is None:
            return self.cc - self.tc.T - self.tc + self.tt
        cross = map_ @ self.tc.T
        return map_ @ self.cc @ map_.T - cross - cross.T + self.tt

    def drift(self, edit: torch.Tensor, metric: torch.Tensor) -> float:
        """Relative change of preserved rows: |dW P| / |W P|, with dW = W E and `metric` = W^T W."""
        return ratio(float((edit @ self.pp @ edit.T * metric).sum()), float((self.pp * metric).sum()))


class MomentSums:
    """Sums rows into moments, on a device in batches: one copy for many prompts instead of several for each.

    Parameters
    ----------
    rows
        Rows of a batch. By default 1 on the CPU, which needs no copies, and where the order of summation decides the last bits of a
        patch; ROWS_AT_ONCE elsewhere.
    """

    def __init__(self, moments: Moments, rows: int | None = None):
        self._moments = moments
        self._batch_rows = rows or (1 if moments.cc.device.type == "cpu" else ROWS_AT_ONCE)
        self._pairs: list[tuple[torch.Tensor, ...]] = []
        self._preserved: list[tuple[torch.Tensor, ...]] = []

    def add_pair(self, *rows: torch.Tensor) -> None:
        """Adds the rows of a target pair, with the arguments of Moments.add_pair."""
        self._pairs = self._queued(self._pairs, rows, self._moments.add_pair)

    def add_preserved(self, *rows: torch.Tensor) -> None:
        """Adds preserved rows, with the arguments of Moments.add_preserved."""
        self._preserved = self._queued(self._preserved, rows, self._moments.add_preserved)

    def _queued(self, queue: list, rows: tuple[torch.Tensor, ...], add: Callable[..., None]) -> list:
        queue = [*queue, rows]
        if sum(len(entry[0]) for entry in queue) < self._batch_rows:
            return queue
        _add_batch(queue, add)
        return []

    def result(self) -> Moments:
        """Moments of all rows added so far."""
        _add_batch(self._pairs, self._moments.add_pair)
        _add_batch(self._preserved, self._moments.add_preserved)
        self._pairs, self._preserved = [], []
        return self._moments


def _add_batch(queue: list[tuple[torch.Tensor, ...]], add: Callable[..., None]) -> None:
    if queue:
        add(*(rows[0] if len(rows) == 1 else torch.cat(rows) for rows in zip(*queue)))


def _weighted(rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    return rows if weight is None else rows * weight[:, None].sqrt()


def ratio(square: float, reference: float) -> float:
    """Ratio of two norms, from their squares. A first square that rounding made negative counts as 0."""
    return math.sqrt(max(0.0, square) / max(reference, 1e-300))
