"""A sequence that computes its items on access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """A sequence that computes an item on every access and keeps none, for items too large to hold all at once.

    Parameters
    ----------
    count
        Number of items.
    make
        Computes the item of a number from 0.
    """

    def __init__(self, count: int, make: Callable[[int], T]):
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> T: ...

    @overload
    def __getitem__(self, number: slice) -> list[T]: ...

    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return [self._make(n) for n in range(self._count)[number]]
        return self._make(range(self._count)[number])
