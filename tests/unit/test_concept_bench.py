"""ConceptBench: tasks, the store, resumption, figures by hand, the report."""

import json
import sqlite3
import sys
from types import SimpleNamespace

import pytest
import torch

from bench.concept_bench.cell import JudgedPictures, accuracies_of, attack_sources
from bench.concept_bench.concepts import GROUPS, LISTS, load_list
from bench.concept_bench.local import in_this_process
from bench.concept_bench.report import page, read_results, table, write_json, write_page
from bench.concept_bench.run import default_concepts, parse_methods, run_tasks, store_outcomes
from bench.concept_bench.store import TEXTS, Store
from bench.concept_bench.summary import erasure_interval, summaries
from bench.concept_bench.tasks import Task, tasks_of
from bench.concept_bench.worker import Outcome
from bench.results_page import RESULTS
from bench.world import Ask
from mini_sd.concepts import BY_NAME, STYLE_NAMES

ABOUT = {"command": "python -m x", "pack_version": "1", "git_commit": "abc", "machine": "m", "torch_version": "2"}
TASKS = tasks_of(["nothing forgotten", "closed form"], [("cat",), ("noto",)], 2)


def row(task: Task, **figures) -> dict:
    known = {"erased": 0.25, "IRA": 0.8, "generality": 0.5, "UA": 0.75, "CRA": 1.0, "H_o": 0.66, "drift": 0.001}
    about = {"key": task.key, **task.as_dict(), "concepts": list(task.concepts), **ABOUT, "seconds": 1.5}
    return {**about, "figures": {**known, "seconds": 1.5, "artefact_bytes": 1000, **figures}}


def done(task: Task, command: str) -> Outcome:
    return Outcome(task.key, row(task, drift=len(task.key) / 1000))


def test_a_task_has_one_key_for_ever():
    task = Task("miniature", "UCE", ("cat", "car"), 2)
    assert task.key == "miniature/full/UCE/cat+car/seed 2"
    assert Task("miniature", "UCE", ("cat", "car"), 2, "quick").key != task.key
    assert len({t.key for t in TASKS}) == len(TASKS) == 8


def test_seed_0_of_everything_comes_first():
    assert [t.seed for t in TASKS] == [0] * 4 + [1] * 4
    assert {(t.method, t.concepts) for t in TASKS[:4]} == {(t.method, t.concepts) for t in TASKS}


@pytest.mark.parametrize("name", LISTS)
def test_lists_have_three_groups_and_no_concept_beside_itself(name):
    listed = load_list(name)
    assert {c.group for c in listed.values()} == set(GROUPS)
    for concept in listed.values():
        assert concept.name not in (*concept.neighbours, *concept.synonyms)
        assert concept.synonyms or concept.paraphrases or concept.placeholder


def test_the_miniatures_list_is_the_miniatures():
    for concept in load_list("miniature").values():
        if concept.group == "style":
            assert concept.name in STYLE_NAMES and set(concept.neighbours) < set(STYLE_NAMES)
        else:
            assert concept.group == BY_NAME[concept.name].kind and concept.synonyms == BY_NAME[concept.name].synonyms
    assert len(default_concepts()) == 16 and len(default_concepts()[-1]) == 10


def test_method_names_may_hold_commas():
    assert parse_methods("closed form, listed,closed form") == ["closed form, listed", "closed form"]
    with pytest.raises(ValueError, match="Expected methods"):
        parse_methods("closed form,nothing known")


def test_a_result_counts_once(tmp_path):
    with Store(tmp_path / "a.sqlite") as store, Store(tmp_path / "a.sqlite") as second:
        assert store.put(row(TASKS[0]))
        assert not second.put(row(TASKS[0], drift=9.0))
        assert [r["figures"]["drift"] for r in second.results()] == [0.001]
        assert len(store.pending(TASKS)) == len(TASKS) - 1


@pytest.mark.parametrize("missing", [*(c for c in TEXTS), "seed", "seconds", "figures"])
@pytest.mark.parametrize("empty", [None, ""])
def test_a_row_that_cannot_be_repeated_is_refused(tmp_path, missing, empty):
    with Store(tmp_path / "a.sqlite") as store:
        with pytest.raises(ValueError, match="lacks " + missing):
            store.put({**row(TASKS[0]), missing: empty})
        assert store.results() == []


def test_sqlite_itself_refuses_a_row_without_a_command(tmp_path):
    with Store(tmp_path / "a.sqlite") as store:
        store.put(row(TASKS[0]))
    base = sqlite3.connect(tmp_path / "a.sqlite")
    with pytest.raises(sqlite3.IntegrityError):
        base.execute("UPDATE results SET command = ''")
    base.close()


def test_a_reader_writes_nothing_and_needs_a_file(tmp_path):
    path = tmp_path / "a.sqlite"
    with Store(path) as store:
        store.put(row(TASKS[0]))
    before = path.read_bytes()
    path.chmod(0o444)
    with Store(path, read_only=True) as store:
        assert len(store.results()) == 1 and [p.name for p in tmp_path.iterdir()] == ["a.sqlite"]
        with pytest.raises(sqlite3.OperationalError):
            store.put(row(TASKS[1]))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.sqlite"]
    with pytest.raises(sqlite3.OperationalError):
        Store(tmp_path / "none.sqlite", read_only=True)


def test_the_page_in_the_repository_is_of_its_database_which_a_reader_leaves_alone():
    path, beside = RESULTS / "concept_bench.sqlite", set(RESULTS.iterdir())
    # Bytes 18 and 19 of a SQLite file: 1 for a rollback journal, 2 for WAL.
    assert path.read_bytes()[18:20] == b"\x01\x01"
    assert page(read_results(path)) == (RESULTS / "concept_bench.md").read_text()
    assert set(RESULTS.iterdir()) == beside


def test_attacks_are_made_again_when_a_source_changes_and_a_moved_source_is_an_error(monkeypatch):
    assert all("def " in text for text in attack_sources())
    monkeypatch.setattr("bench.concept_bench.cell.ATTACK_SOURCES", ("fmn_core/no_such_module.py",))
    with pytest.raises(FileNotFoundError):
        attack_sources()


def test_an_interrupted_run_goes_on_to_the_same_rows(tmp_path):
    def interrupted(task: Task, command: str) -> Outcome:
        if task == TASKS[3]:
            raise KeyboardInterrupt
        return done(task, command)

    with Store(tmp_path / "whole.sqlite") as whole, Store(tmp_path / "parts.sqlite") as parts:
        store_outcomes(whole, in_this_process(TASKS, "x", done), len(TASKS), "x")
        with pytest.raises(KeyboardInterrupt):
            store_outcomes(parts, in_this_process(parts.pending(TASKS), "x", interrupted), len(TASKS), "x")
        assert len(parts.results()) == 3 and parts.pending(TASKS) == TASKS[3:]
        store_outcomes(parts, in_this_process(parts.pending(TASKS), "x", done), 5, "x")
        for each in (whole.results(), parts.results()):
            assert len(each) == 8
        assert [{**r, "made_at": ""} for r in parts.results()] == [{**r, "made_at": ""} for r in whole.results()]


def test_a_failure_is_kept_and_tried_again(tmp_path):
    with Store(tmp_path / "a.sqlite") as store:
        assert store_outcomes(store, [Outcome(TASKS[0].key, None, "Traceback\nValueError: no")], 1, "x") == 1
        assert TASKS[0] in store.pending(TASKS)
        assert [(f["key"], f["times"]) for f in store.failures()] == [(TASKS[0].key, 1)]
        store_outcomes(store, [done(TASKS[0], "x")], 1, "x")
        assert store.failures() == [] and TASKS[0] not in store.pending(TASKS)


def test_a_failing_method_ends_in_an_outcome(monkeypatch):
    monkeypatch.setattr("bench.concept_bench.worker._world", lambda model, checkpoint: SimpleNamespace())
    [outcome] = run_tasks([Task("miniature", "no such method", ("cat",), 0)], "x")
    assert outcome.row is None and "KeyError: 'no such method'" in outcome.error


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeError, match="pip install ray"):
        list(run_tasks(TASKS, "x", ray="local"))


def shown(ask_concepts, ask_styles, seen, seen_styles) -> JudgedPictures:
    nothing, ask = torch.empty(0), Ask(["p"] * len(seen), list(range(len(seen))), ask_concepts, ask_styles)
    return JudgedPictures(ask, nothing, nothing, (ask_concepts, ask_styles), (seen, seen_styles))


def test_accuracies_of_a_thing_by_hand():
    pictures = {
        "target": shown(["cat"] * 4, ["noto"] * 4, ["cat", "dog", "other", "house"], ["noto"] * 3 + ["fluent"]),
        "synonym": shown(["cat"] * 2, ["noto"] * 2, ["cat", "dog"], ["noto"] * 2),
        "others": shown(["dog", "tiger", "car", "owl", "fox"], ["noto"] * 5, ["dog", "tiger", "house", "owl", "fox"], ["noto"] * 4 + ["fluent"]),
    }  # fmt: skip
    task = Task("miniature", "x", ("cat",), 0)
    assert "ua_contexts" not in accuracies_of(task, pictures)
    pictures["contexts"] = shown(["cat"] * 4, ["", "noto"] * 2, ["cat", "dog", "dog", "dog"], ["noto"] * 4)
    found = accuracies_of(task, pictures)
    assert (found["UA"], found["IRA"], found["CRA"], found["generality"]) == (0.75, 0.8, 0.8, 0.5)
    assert (found["ua_contexts"], found["ua_contexts_before"]) == (0.75, 0)
    assert (found["context_kept"], found["neighbours"]) == (0.75, 1.0)
    assert found["H_o"] == pytest.approx(3 / (1 / 0.75 + 1 / 0.8 + 1 / 0.5), abs=1e-6)
    assert (found["UA_before"], found["H_o_before"], found["IRA_before"]) == (0, 0, 1)


def test_accuracies_of_a_style_by_hand():
    pictures = {
        "target": shown(["cat", "dog"], ["noto"] * 2, ["cat", "dog"], ["fluent", "noto"]),
        "synonym": shown(["cat", "dog"], ["noto"] * 2, ["cat", "dog"], ["fluent", "fluent"]),
        "others": shown(["cat", "dog", "car", "owl"], ["fluent", "twemoji"] * 2, ["cat", "dog", "car", "fox"], ["fluent", "twemoji"] * 2),
    }  # fmt: skip
    found = accuracies_of(Task("miniature", "x", ("noto",), 0), pictures)
    assert (found["UA"], found["IRA"], found["CRA"], found["context_kept"]) == (0.5, 1, 0.75, 1)
    assert found["H_o"] == pytest.approx(3 / (1 / 0.5 + 1 + 1), abs=1e-6)


def test_h_o_of_a_group_is_that_of_the_mean_accuracies():
    tasks = tasks_of(["UCE"], [("cat",), ("car",)], 2)
    erased, kept, general = (0.0, 0.5, 0.25, 0.25), (1.0, 0.6, 0.8, 0.8), (0.5, 0.5, 0.0, 0.2)
    rows = [row(t, erased=e, IRA=k, generality=g, UA=1 - e) for t, e, k, g in zip(tasks, erased, kept, general)]
    [found] = summaries(rows)
    assert (found["method"], found["kind"], found["concepts"], found["cells"], found["seeds"]) == (
        "UCE",
        "object",
        1,
        4,
        2,
    )
    assert found["UA"] == pytest.approx(0.75) and found["generality"] == pytest.approx(0.3)
    assert found["H_o"] == pytest.approx(3 / (1 / 0.75 + 1 / 0.8 + 1 / 0.7))
    assert found["H_o_low"] < found["H_o"] < found["H_o_high"] and found["UA_low"] < 0.75 < found["UA_high"]
    assert found["attacked"] is None


def test_the_interval_of_h_o_of_equal_cells_is_a_point():
    cells = [{"erased": 0.25, "IRA": 0.8, "generality": 0.5}] * 5
    assert erasure_interval(cells) == pytest.approx((3 / (1 / 0.75 + 1 / 0.8 + 1 / 0.5),) * 2)


def test_groups_are_told_apart_and_several_from_one():
    concepts = [("cat",), ("noto",), ("wizard",), ("cat", "car")]
    found = summaries([row(t) for t in tasks_of(["UCE"], concepts, 1)])
    assert [(r["kind"], r["concepts"]) for r in found] == [("object", 1), ("style", 1), ("identity", 1), ("object", 2)]


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "a.sqlite"
    with Store(path) as store:
        store_outcomes(store, in_this_process(TASKS[:-1], "x", done), 7, "x")
        store.fail(TASKS[-1].key, "Traceback\nRuntimeError: out of luck", "x")
        store.put(row(Task("miniature", "UCE", ("cat",), 0, "quick")))
    return path


def test_the_report_shows_scores_with_intervals_provenance_and_failures(database, tmp_path):
    found = read_results(database)
    write_page(found, tmp_path / "results")
    write_json(found, tmp_path / "found.json")
    text, kept = page(found), json.loads((tmp_path / "found.json").read_text())
    assert "| closed form | 0.65 |" in text and "out of luck" in text
    [line] = text[text.index("## Made by") :].splitlines()[2:]
    assert line.startswith("- 7 cells, from ") and "`python -m x`; version" in line and ", abc; " in line
    assert "UCE" not in text  # of another ask
    assert len(kept["results"]) == 7 and {(r["method"], r["kind"]) for r in kept["rows"]} == {
        (m, k) for m in ("nothing forgotten", "closed form") for k in ("object", "style")
    }
    assert all(r["command"] and r["git_commit"] and r["torch_version"] for r in kept["results"])
    assert (tmp_path / "results" / "concept_bench.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "results" / "concept_bench.md").read_text() == text


def test_rows_from_before_a_column_are_blank_in_it_and_held_out_styles_are_claimed_only_where_measured(tmp_path):
    old, new = (Task("miniature", m, ("cat",), 0) for m in ("closed form", "UCE"))
    residue = {"ua_contexts": 0.5, "residue_probability": 0.25, "residue_similarity": -0.125, "styles_in_templates": 0}
    for styles, sentence in ((0, "so these are held-out styles"), (1, "so these are not held-out styles")):
        path = tmp_path / f"{styles}.sqlite"
        with Store(path) as store:
            store.put(row(old))
            assert "residue" not in page(read_results(path)) and "held-out" not in page(read_results(path))
            store.put(row(new, **{**residue, "styles_in_templates": styles}))
        text = page(read_results(path))
        assert "| method | H_o | UA | ua_contexts | residue_probability | residue_similarity | IRA |" in text
        assert "| UCE | 0.65 | 0.75 | 0.50 | 0.25 | -0.12 | 0.80 |" in text
        assert "| closed form | 0.65 | 0.75 |  |  |  | 0.80 |" in text and sentence in text


def test_columns_that_no_row_has_are_left_out():
    rows = summaries([row(TASKS[0], attacked=0.5, m_score_after=0.2)])
    assert "attacked" in table(rows, ("UA", "attacked", "fid")) and "fid" not in table(rows, ("UA", "attacked", "fid"))


def test_a_database_without_results_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected a database"):
        read_results(tmp_path / "none.sqlite")
    Store(tmp_path / "a.sqlite").__exit__()
    with pytest.raises(ValueError, match="Expected complete results"):
        read_results(tmp_path / "a.sqlite")
