"""Runs tasks on this machine, in this process or in several with one torch thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from bench.concept_bench.tasks import Task
from bench.concept_bench.worker import Outcome, begin_process, work

Work = Callable[[Task, str], Outcome]


def in_this_process(tasks: list[Task], command: str, do: Work = work) -> Iterator[Outcome]:
    for task in tasks:
        yield do(task, command)


def in_processes(tasks: list[Task], command: str, workers: int, do: Work = work) -> Iterator[Outcome]:
    """Outcomes as they come. Raises RuntimeError when a process dies: what was done is kept, and the same command goes on."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when a new process imports it
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=begin_process)
    try:
        for future in as_completed([pool.submit(do, task, command) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process died. What is done is kept: run the same command again to go on."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
