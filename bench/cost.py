"""Measures what a piece of work costs: seconds and peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch

_EVERY = 0.005


@dataclass
class Cost:
    """Seconds and peak memory of a measured block.

    `peak_mb` includes the model: CUDA memory where a GPU is used, otherwise the process's resident memory.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Measures the block that it encloses. Free heap goes back to the system first, so that the peak is the block's own."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    cost, done = Cost(), threading.Event()
    watcher = _watch_cuda(cost) if torch.cuda.is_available() else _watch_resident(cost, done)
    with watcher:
        started = time.perf_counter()
        try:
            yield cost
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            cost.seconds = time.perf_counter() - started


@contextlib.contextmanager
def _watch_cuda(cost: Cost) -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    cost.peak_mb = torch.cuda.max_memory_allocated() / 1e6


@contextlib.contextmanager
def _watch_resident(cost: Cost, done: threading.Event) -> Iterator[None]:
    process = psutil.Process()

    def watch() -> None:
        while not done.wait(_EVERY):
            cost.peak_mb = max(cost.peak_mb, process.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        cost.peak_mb = max(cost.peak_mb, process.memory_info().rss / 1e6)
