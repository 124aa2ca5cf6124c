"""Runs tasks on Ray, with the seeds and rows of a local run; workers return rows, and the driver alone writes them.

This alone needs `pip install ray`. Every machine of a cluster needs this checkout at the same path, with its
environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from bench.concept_bench.local import Work
from bench.concept_bench.tasks import Task
from bench.concept_bench.worker import Outcome, work
from tools.comfy_host import REPOSITORY

LOCAL = "local"  # a cluster of this machine alone, for as long as the run lasts
# Retries of a task whose worker died; after them the task is a failure, which the next run tries again.
RETRIES = 3
STORE_BYTES = 80 * 1024**2  # Ray's minimum; a row has a few kB


def on_ray(
    tasks: list[Task], command: str, address: str = LOCAL, workers: int = 2, run_task: Work = work
) -> Iterator[Outcome]:
    """Outcomes in the order in which workers finish; a task whose worker dies is run again.

    Raises
    ------
    RuntimeError
        When Ray is not installed.

    Notes
    -----
    A checkpoint's worker has a GPU for itself where the cluster has any, and needs the checkpoint and the judge at the
    same paths.
    """
    ray = _start_ray(address, workers)
    try:
        gpus = 1 if any(t.checkpoint for t in tasks) and ray.cluster_resources().get("GPU") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(run_task)
        pending = {remote.remote(task, command): task for task in tasks}
        while pending:
            [finished], _ = ray.wait(list(pending), num_returns=1)
            yield _outcome(ray, finished, pending.pop(finished))
    finally:
        ray.shutdown()


def _outcome(ray: Any, reference: Any, task: Task) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(task.key, None, f"Ray gave the task up after {RETRIES} retries: {error}")


def _start_ray(address: str, workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise RuntimeError("Expected Ray for --ray, found none. Run `pip install ray`, or leave --ray out.") from error
    environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}}
    local_options = {"num_cpus": workers, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    options = local_options if address == LOCAL else {"address": address}
    ray.init(runtime_env=environment, logging_level="warning", log_to_driver=False, **options)
    return ray
