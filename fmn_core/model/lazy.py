"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence of `count` items, each made anew by `make(number)` whenever it is asked for, and kept by nobody.

    For items of which one at a time fits into memory.
    """

    def __init__(self, count: int, make: Callable[[int], T]):
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number):  # type: ignore[override]
        if isinstance(number, slice):
            return [self._make(n) for n in range(self._count)[number]]
        return self._make(range(self._count)[number])
