"""ConceptBench's command line on a random checkpoint of SD 1.5's size with a random CLIP as judge: tiny pictures, minutes."""

import math
import os
import subprocess
import sys

import pytest
from inprocess.random_clip import clip_folder

from bench import full_size
from bench.concept_bench.report import page, read_results
from bench.concept_bench.store import Store
from tools import comfy_host

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14400)]

# The untouched model comes last: had a method left anything behind, its pictures would differ from those made at first.
METHODS, CONCEPTS = ("UCE", "closed form", "nothing forgotten"), ("a zebra", "Claude Monet")
SHARES = {"UA", "IRA", "H_o", "generality", "erased", "neighbours"}
FIGURES = {"drift", "seconds", "peak_mb", "artefact_bytes", "cmmd", "clip_target_before", "clip_target_after"}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command line, and the database that it writes."""
    comfy_host.load_pack()
    folder = tmp_path_factory.mktemp("bench")
    model, judge, database = folder / "random sd15.safetensors", folder / "random clip", folder / "results.sqlite"
    full_size.write_checkpoint("SD 1.5", model)
    judge.mkdir()
    clip_folder(judge)
    what = ["--methods", ",".join(METHODS), "--concepts", ",".join(CONCEPTS), "--seeds", "1"]
    how = ["--size", "64", "--steps", "2", "--pictures", "2", "--database", str(database)]
    run = [sys.executable, "-m", "bench.concept_bench.run", "--model", str(model), "--judge", str(judge), *what, *how]
    yield run, database
    model.unlink()


def output_of(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=comfy_host.REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_methods_are_measured_on_a_checkpoint_from_the_command_line(command):
    run, database = command
    assert "6 of 6 tasks to do" in output_of(run)
    with Store(database) as store:
        rows = {(r["method"], r["concepts"][0]): r for r in store.results()}
        assert store.failures() == []
    assert set(rows) == {(m, c) for m in METHODS for c in CONCEPTS}
    for (method, concept), row in rows.items():
        figures, styled = row["figures"], concept == "Claude Monet"
        assert row["model"] == "random sd15" and "judge random clip" in row["ask"] and row["key"].endswith("seed 0")
        assert set(figures) >= SHARES | FIGURES and ("CRA" in figures) == ("context_kept" in figures) == styled
        assert all(0 <= figures[name] <= 1 for name in SHARES)
        assert all(math.isfinite(v) for v in figures.values() if isinstance(v, int | float))
        assert "attacked" not in figures and "m_score_after" not in figures
        assert figures["pictures"]["target"] == 2 and figures["setting"]["size"] == 64
        if method == "nothing forgotten":
            assert figures["drift"] == 0 and figures["artefact_bytes"] == 0 and figures["UA"] == figures["UA_before"]
        else:
            assert figures["drift"] > 0 and figures["artefact_bytes"] > 100_000
    # Keys and values of 16 layers, 768 wide on the text's side, in half precision.
    widths = 2 * (5 * 320 + 5 * 640 + 6 * 1280)
    assert rows["UCE", "a zebra"]["figures"]["artefact_bytes"] == 2 * 768 * widths
    assert "0 of 6 tasks to do" in output_of(run)
    text = page(read_results(database, None, None))
    assert "ConceptBench on random sd15" in text and "CLIP random clip" in text and "miniature" not in text
