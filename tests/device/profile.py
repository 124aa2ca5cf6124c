"""What crosses between the devices, waits, or is float64 on the card, by the line of the pack that causes it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from tools.comfy_host import REPOSITORY


class Profile:
    """Counts and bytes by kind (D2H, H2D, sync, float64), operator and line; entered, it listens to the backend."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str, str], tuple[int, int]] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[Profile]:
        torch.fake.listen(self._count)
        try:
            yield self
        finally:
            torch.fake.listen(None)

    def _count(self, kind: str, operator: str, size: int) -> None:
        if kind in ("op", "D2D", "H2D async"):
            return
        key = (kind, operator, _own_line())
        count, total = self.events.get(key, (0, 0))
        self.events[key] = count + 1, total + size

    def totals(self) -> dict[str, tuple[int, int]]:
        """Count and bytes of each kind."""
        found: dict[str, tuple[int, int]] = {}
        for (kind, _, _), (count, size) in self.events.items():
            before = found.get(kind, (0, 0))
            found[kind] = before[0] + count, before[1] + size
        return found

    def lines(self, most: int = 25) -> list[str]:
        """The most frequent events, one a line."""
        ordered = sorted(self.events.items(), key=lambda item: -item[1][0])[:most]
        return [
            f"{kind:10s} {operator:32s} {count:6d} x {size / 1e6:9.2f} MB  {line}"
            for (kind, operator, line), (count, size) in ordered
        ]


def _own_line() -> str:
    """The innermost line of the pack on the stack."""
    try:
        frame: Any = sys._getframe(2)
    except ValueError:  # in a thread of the autograd engine
        return "(backward)"
    root = f"{REPOSITORY}/"
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(root) and not path.startswith((f"{root}tests/", f"{root}.")):
            return f"{path.removeprefix(root)}:{frame.f_lineno}"
        frame = frame.f_back
    return "(host)"
