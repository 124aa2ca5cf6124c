"""A cache of tensors in memory, which ends with the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch

MAX_BYTES = 512_000_000

Tensors = dict[str, torch.Tensor]


class Cache:
    """Dicts of tensors on the CPU by key, at most `max_bytes` of them: the least recently used go first.

    An entry larger than the bound is not stored. Entries are copied in and out, so that what a caller does to its
    tensors changes no entry. Threads may share a cache.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self._entries: OrderedDict[str, Tensors] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Tensors | None:
        """The tensors of a key, bit for bit as they were put, on the CPU and fit for autograd; None when there are none."""
        with self._lock:
            tensors = self._entries.get(key)
            if tensors is None:
                return None
            self._entries.move_to_end(key)
        return _copied(tensors)

    def put(self, key: str, tensors: Tensors) -> bool:
        """Stores tensors under a key, in place of what was there, and tells whether they fit."""
        if _size(tensors) > self.max_bytes:
            return False
        entry = _copied(tensors)
        with self._lock:
            self._remove(key)
            self._entries[key] = entry
            self._bytes += _size(entry)
            while self._bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
        return True

    def remember(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of a key; where there are none, makes and stores them. Both come as `get` gives them."""
        found = self.get(key)
        if found is None:
            found = _copied(make())
            self.put(key, found)
        return found

    def clear(self) -> int:
        """Removes all entries; returns the bytes freed."""
        with self._lock:
            freed, self._bytes = self._bytes, 0
            self._entries.clear()
        return freed

    def size(self) -> int:
        """Bytes that all entries take."""
        with self._lock:
            return self._bytes

    def _remove(self, key: str) -> None:
        self._bytes -= _size(self._entries.pop(key, {}))


def _size(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _copied(tensors: Tensors) -> Tensors:
    """Copies on the CPU, contiguous, apart from each other and from any graph, that autograd accepts."""
    with torch.inference_mode(False):
        return {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
