"""Runs one task in any process, which loads its model once; the outcome is a row for the store, or an error."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.concept_bench.concepts import MINIATURE_FLUX
from bench.concept_bench.tasks import Checkpoint, Task


@dataclass
class Outcome:
    """Outcome of a task: a complete row, or None and the error's text, and the id of the process that ran it."""

    key: str
    row: dict[str, Any] | None
    error: str = ""
    process: int = 0


@lru_cache(maxsize=1)
def _world(model: str, checkpoint: Checkpoint | None) -> Any:
    """The world of a miniature, or of a checkpoint."""
    from bench.concept_bench.checkpoint_world import CheckpointWorld
    from bench.concept_bench.flux_world import FluxBenchWorld
    from bench.concept_bench.miniature_world import BenchWorld

    if checkpoint is not None:
        return CheckpointWorld(checkpoint)
    return FluxBenchWorld() if model == MINIATURE_FLUX else BenchWorld()


def work(task: Task, command: str) -> Outcome:
    """Runs a task; an exception becomes the outcome's error, so that the other tasks go on."""
    try:
        return Outcome(task.key, row_of(task, command), process=os.getpid())
    except Exception:
        return Outcome(task.key, None, traceback.format_exc(), os.getpid())


def row_of(task: Task, command: str) -> dict[str, Any]:
    """The complete row of a task: its figures, and what is needed to repeat it."""
    from bench.concept_bench.cell import measure_task
    from bench.concept_bench.provenance import provenance

    figures = measure_task(_world(task.model, task.checkpoint), task)
    origin = {"key": task.key, **task.as_dict(), "concepts": list(task.concepts), **provenance(command)}
    return {**origin, "seconds": figures["seconds"], "figures": figures}


def begin_process() -> None:
    """Prepares a new process: one torch thread, and a search path without the host, which is activated later."""
    import torch

    from tools import comfy_host

    torch.set_num_threads(1)
    sys.path[:] = [folder for folder in sys.path if folder != str(comfy_host.root())]
