"""An in-memory cache of tensors with a bounded size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch

MAX_BYTES = 512_000_000

Tensors = dict[str, torch.Tensor]


class Cache:
    """Stores dicts of tensors by key on the CPU, and evicts the least recently used entries beyond `max_bytes`.

    Notes
    -----
    An entry larger than the bound is not stored. Entries are copied in and out, so that a caller who changes its tensors
    changes no entry. Threads may share a cache.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self._entries: OrderedDict[str, Tensors] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Tensors | None:
        """Copies of the tensors of a key, on the CPU and usable in autograd; None when the key has no entry."""
        with self._lock:
            tensors = self._entries.get(key)
            if tensors is None:
                return None
            self._entries.move_to_end(key)
        return _copy(tensors)

    def put(self, key: str, tensors: Tensors) -> bool:
        """Stores tensors under a key, replacing its entry; returns False when they exceed the bound."""
        if _size(tensors) > self.max_bytes:
            return False
        entry = _copy(tensors)
        with self._lock:
            self._remove(key)
            self._entries[key] = entry
            self._bytes += _size(entry)
            while self._bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
        return True

    def remember(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of a key as `get` returns them; where the key has no entry, calls `make` and stores them."""
        tensors = self.get(key)
        if tensors is None:
            tensors = _copy(make())
            self.put(key, tensors)
        return tensors

    def clear(self) -> int:
        """Removes all entries; returns the number of bytes freed."""
        with self._lock:
            freed, self._bytes = self._bytes, 0
            self._entries.clear()
        return freed

    def size(self) -> int:
        """Number of bytes that all entries take."""
        with self._lock:
            return self._bytes

    def _remove(self, key: str) -> None:
        self._bytes -= _size(self._entries.pop(key, {}))


def _size(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _copy(tensors: Tensors) -> Tensors:
    """Contiguous copies on the CPU that share no memory, belong to no graph, and can be used in autograd."""
    with torch.inference_mode(False):
        return {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
