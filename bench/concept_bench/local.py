"""Runs tasks on this machine, in this process or in several processes with one torch thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from bench.concept_bench.tasks import Task
from bench.concept_bench.worker import Outcome, begin_process, work

Work = Callable[[Task, str], Outcome]


def in_this_process(tasks: list[Task], command: str, run_task: Work = work) -> Iterator[Outcome]:
    """Outcomes of tasks that run one after another in this process."""
    for task in tasks:
        yield run_task(task, command)


def in_processes(tasks: list[Task], command: str, workers: int, run_task: Work = work) -> Iterator[Outcome]:
    """Outcomes in the order in which the processes finish.

    Raises
    ------
    RuntimeError
        When a process dies. Finished outcomes were yielded before, so the same command can go on.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when a new process imports it
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=begin_process)
    try:
        for future in as_completed([pool.submit(run_task, task, command) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process died. What is done is kept: run the same command again to go on."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
