"""Measures seconds and peak memory of a block of code."""

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

_INTERVAL = 0.005  # seconds between two readings of resident memory


@dataclass
class Cost:
    """Cost of a measured block.

    Parameters
    ----------
    seconds
        Time that the block took.
    peak_mb
        Peak of CUDA memory where torch finds a GPU, else of the process's resident memory, the model included, in MB.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0


@contextlib.contextmanager
def measure_cost() -> Iterator[Cost]:
    """Measures the enclosed block; free heap is returned to the system first, so that the peak does not include it."""
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
        while not done.wait(_INTERVAL):
            cost.peak_mb = max(cost.peak_mb, process.memory_info().rss / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        cost.peak_mb = max(cost.peak_mb, process.memory_info().rss / 1e6)
