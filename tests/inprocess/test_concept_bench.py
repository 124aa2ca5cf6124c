"""ConceptBench's runner on the miniature: one process, several, and Ray with a worker killed, give the same rows once."""

import importlib.util
import os
import signal
import threading
import time

import psutil
import pytest

from bench.concept_bench import optional_scores
from bench.concept_bench.local import in_processes, in_this_process
from bench.concept_bench.on_ray import STORE_BYTES, on_ray
from bench.concept_bench.run import store_outcomes
from bench.concept_bench.store import Store
from bench.concept_bench.tasks import Task, tasks_of
from bench.world import World

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
TASKS = tasks_of(["nothing forgotten", "closed form"], [("cat",), ("noto",)], 1, "tiny")
COSTS = ("seconds", "own_seconds", "cpu_seconds", "peak_mb", "cell_seconds")


def results(path) -> dict[str, dict]:
    """Figures by key, without what differs from run to run."""
    with Store(path) as store:
        return {r["key"]: {k: v for k, v in r["figures"].items() if k not in COSTS} for r in store.results()}


def assert_same(found: dict[str, dict], reference: dict[str, dict]) -> None:
    """The same tasks and figures, up to what the same sums give from memory that is aligned in another way."""
    assert set(found) == set(reference)
    for key, figures in found.items():
        assert figures.pop("pictures") == reference[key]["pictures"]
        expected = {k: v for k, v in reference[key].items() if k != "pictures"}
        assert figures == pytest.approx(expected, rel=1e-3, abs=1e-5), key


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """All tasks in this process."""
    path = tmp_path_factory.mktemp("bench") / "reference.sqlite"
    with Store(path) as store:
        assert store_outcomes(store, in_this_process(TASKS, "x"), len(TASKS), "x") == 0
    return results(path)


def test_a_cell_says_what_was_forgotten_and_what_it_cost(reference):
    assert set(reference) == {t.key for t in TASKS}
    for key, figures in reference.items():
        assert all(0 <= figures[k] <= 1 for k in ("UA", "IRA", "CRA", "H_o", "generality"))
        if "nothing" in key:
            assert figures["drift"] < 1e-6 and figures["UA"] == figures["UA_before"] and figures["artefact_bytes"] == 0
        else:
            assert figures["drift"] > 0 and figures["artefact_bytes"] > 10_000


def test_the_m_score_of_an_unchanged_model_is_that_of_the_original(monkeypatch):
    world = World(steps=2)
    monkeypatch.setattr(optional_scores, "M_SCORE", {**optional_scores.M_SCORE, "steps": 2, "warmup": 1})
    task = Task("miniature", "nothing forgotten", ("cat",), 0)
    scores = optional_scores.m_scores(world, task, world.model)
    assert scores["m_score_before"] == pytest.approx(scores["m_score_after"], abs=1e-3)
    assert optional_scores.m_scores(world, task, None) == {}


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(reference, tmp_path):
    with Store(tmp_path / "a.sqlite") as store:
        store_outcomes(store, in_processes(TASKS[:2], "x", 2), 2, "x")
    assert_same(results(tmp_path / "a.sqlite"), {t.key: reference[t.key] for t in TASKS[:2]})


def kill_one_worker(killed: list[int], done: threading.Event) -> None:
    """Kills the first of this process's Ray workers that is seen at work."""
    while not killed and not done.is_set():
        for process in psutil.Process().children(recursive=True):
            try:
                if "ray::work" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            except psutil.Error:
                continue
        time.sleep(0.02)


@needs_ray
def test_nothing_is_lost_and_nothing_counts_twice_when_a_ray_worker_is_killed(reference, tmp_path):
    killed, done, processes = [], threading.Event(), set()
    with Store(tmp_path / "a.sqlite") as store:
        store_outcomes(store, in_this_process(TASKS[:1], "x"), 1, "x")  # what is there already is not done again
        found = on_ray(store.pending(TASKS), "x")
        watcher = threading.Thread(target=kill_one_worker, args=(killed, done))

        def watched():
            for number, outcome in enumerate(found):
                processes.add(outcome.process)
                yield outcome
                if number == 0:
                    watcher.start()

        assert store_outcomes(store, watched(), len(TASKS) - 1, "x") == 0
        done.set()
        watcher.join()
        assert store.pending(TASKS) == [] and store.failures() == []
    assert len(killed) == 1, "no worker was killed while it worked"
    assert os.getpid() not in processes and len(processes - set(killed)) >= 2, processes
    assert_same(results(tmp_path / "a.sqlite"), reference)


@pytest.fixture
def two_machines():
    """The address of a cluster of two nodes with a core each, as two machines would join it."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**{k: v for k, v in node.items() if k != "include_dashboard"})
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


@needs_ray
def test_a_cluster_that_is_given_by_its_address(reference, two_machines, tmp_path):
    import ray

    with Store(tmp_path / "a.sqlite") as store:
        found, processes, nodes = on_ray(store.pending(TASKS[:4]), "x", two_machines), set(), 0

        def watched():
            nonlocal nodes
            for outcome in found:
                processes.add(outcome.process)
                nodes = len([n for n in ray.nodes() if n["Alive"]])
                yield outcome

        assert store_outcomes(store, watched(), 4, "x") == 0
    assert nodes == 2 and len(processes) == 2 and os.getpid() not in processes
    assert not ray.is_initialized()
    assert_same(results(tmp_path / "a.sqlite"), {t.key: reference[t.key] for t in TASKS[:4]})
