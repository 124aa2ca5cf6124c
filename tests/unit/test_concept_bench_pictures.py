"""ConceptBench's pages of pictures: which pictures they show, rows that are drawn once, captions below the pictures."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.concept_bench import pictures
from bench.concept_bench.asks import asks_of
from bench.concept_bench.baseline_cache import BaselineCache
from bench.concept_bench.method_registry import NOTHING
from bench.concept_bench.pictures import (
    ablated_columns,
    captions_of,
    columns_of,
    concept_page,
    method_row,
    picture_name,
)
from bench.concept_bench.tasks import Task
from bench.methods import Applied
from bench.picture_pages import grid_page
from mini_sd.concepts import STYLE_NAMES, drawn_styles
from mini_sd.judge import load_judge


def task(*concepts: str, method: str = NOTHING) -> Task:
    return Task("miniature", method, concepts, 0)


def test_a_thing_is_shown_in_each_style_by_its_synonym_in_contexts_and_beside_two_neighbours():
    found, asks = columns_of(task("cat")), asks_of(task("cat"))
    assert found.labels[:4] == list(STYLE_NAMES) == found.ask.styles[:4] and found.forgotten == 7
    assert "kitten" in found.ask.prompts[4] and found.ask.styles[5] == "" and found.ask.concepts[7:] == ["tiger", "dog"]
    assert found.labels[5:] == ["context:\nno style", "context:\ntwemoji", "other:\ntiger", "other:\ndog"]
    asked = {pair for ask in asks.values() for pair in zip(ask.prompts, ask.seeds)}
    assert set(zip(found.ask.prompts, found.ask.seeds)) < asked
    assert len(columns_of(task("wizard")).labels) == len(drawn_styles("wizard")) + 5


def test_a_style_is_shown_on_subjects_and_ten_things_once_each():
    found = columns_of(task("noto"))
    assert len(set(found.labels[:4])) == 4 and found.ask.styles[:7] == ["noto"] * 7 and found.forgotten == 7
    assert (
        found.labels[7:] == [f"other:\n{style}" for style in found.ask.styles[7:]]
        and "noto" not in found.ask.styles[7:]
    )
    several = columns_of(task("cat", "car", "owl"))
    assert several.labels[:3] == ["cat", "car", "owl"] and several.forgotten == 6


@pytest.mark.parametrize("concepts", [("cat",), ("noto",), ("cat", "car")])
def test_the_ablated_row_lacks_the_concept_and_keeps_the_others(concepts):
    columns = columns_of(task(*concepts))
    ablated, k = ablated_columns(task(*concepts), columns), columns.forgotten
    assert all(a != b for a, b in zip(ablated.prompts[:k], columns.ask.prompts[:k]))
    assert ablated.prompts[k:] == columns.ask.prompts[k:] and ablated.seeds == columns.ask.seeds


class Drawing:
    """A world that draws the same grey for every prompt, and counts how often."""

    def __init__(self) -> None:
        self.steps, self.guidance, self.times, self.judge = 8, 3.0, 0, load_judge()

    def asks(self, task: Task) -> None:
        pass

    def sample(self, ask, model=None) -> torch.Tensor:
        self.times += 1
        return torch.full((len(ask.prompts), 128, 128, 3), 0.2 if model else 0.6)


@pytest.fixture
def forgetting(monkeypatch):
    """Two methods without weights, and the names that they were called with."""
    called = []

    @contextlib.contextmanager
    def method(world, *names, seed):
        called.append((names, seed))
        yield Applied("model")

    monkeypatch.setattr(pictures, "all_methods", lambda: {NOTHING: method, "gone": method})
    return called


def test_a_row_is_drawn_once_and_again_for_another_concept(tmp_path, forgetting):
    world, ask = Drawing(), columns_of(task("cat")).ask
    first = method_row(world, BaselineCache(tmp_path, []), task("cat", method="gone"), ask)
    again = method_row(world, BaselineCache(tmp_path, []), task("cat", method="gone"), ask)
    assert torch.equal(first, again) and first.shape == (9, 128, 128, 3) and world.times == 1
    assert forgetting == [(("cat",), 0)] and float(first.max()) == pytest.approx(0.2, abs=1e-6)
    method_row(world, BaselineCache(tmp_path, ["other sources"]), task("cat", method="gone"), ask)
    method_row(
        world, BaselineCache(tmp_path, []), task("cat", "car", method="gone"), columns_of(task("cat", "car")).ask
    )
    assert forgetting[1:] == [(("cat",), 0), (("cat", "car"), 0)]


def test_an_interrupted_page_goes_on_where_it_was(tmp_path, forgetting, monkeypatch):
    world, calls = Drawing(), pictures.all_methods()

    @contextlib.contextmanager
    def stopped(world, *names, seed):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(pictures, "all_methods", lambda: {**calls, "gone": stopped})
    with pytest.raises(KeyboardInterrupt):
        concept_page(world, BaselineCache(tmp_path, []), task("cat"), [NOTHING, "gone"])
    monkeypatch.setattr(pictures, "all_methods", lambda: calls)
    image = concept_page(world, BaselineCache(tmp_path, []), task("cat"), [NOTHING, "gone"])
    assert len(forgetting) == 2  # each method once
    assert image.width == pictures.LEFT + 9 * pictures.CELL and image.height > 3 * pictures.CELL


def test_captions_say_what_the_judge_sees_and_the_concepts_probability(monkeypatch):
    columns = columns_of(task("cat"))
    shares = torch.zeros(9, 35)
    shares[:, pictures.CLASS_NAMES.index("cat")] = 0.25
    shares[range(9), [pictures.CLASS_NAMES.index(n) for n in ["cat", *["computer mouse"] * 6, "tiger", "owl"]]] = 0.75
    monkeypatch.setattr(pictures, "probabilities", lambda judge, images: (shares, torch.zeros(9, 4)))
    found = captions_of(SimpleNamespace(judge=None), task("cat"), columns, torch.zeros(9, 1))
    assert found[0] == ("cat 0.75", "firebrick") and found[1] == ("computer  0.25", "dimgray")
    assert found[7:] == [("tiger", "dimgray"), ("owl", "darkorange")]


def test_captions_stand_below_their_pictures_and_change_nothing_else():
    images = torch.rand(4, 32, 32, 3)
    plain, taller = (
        grid_page(images, ["a", "b"], ["c", "d"]),
        grid_page(images, ["a", "b"], ["c", "d"], captions=[("", "red")] * 4),
    )
    assert plain.size == (120 + 128, 22 + 128) and taller.size == (120 + 128, 22 + 128 + 28)
    cells = np.array(plain)[22:86, 120:], np.array(taller)[22:86, 120:]
    assert np.array_equal(*cells)
    assert np.array_equal(np.array(plain)[86:150, 120:], np.array(taller)[100:164, 120:])
    assert (np.array(taller)[86:100] == 255).all()
    written = np.array(grid_page(images, ["a", "b"], ["c", "d"], captions=[("owl", "red")] * 4))[86:100, 120:]
    assert (written != 255).any()
    assert grid_page(images, ["a", "b"], ["c\nd", "d"]).size == (120 + 128, 36 + 128)


def test_names_of_files_have_no_spaces():
    assert picture_name(task("cat", "red apple")) == "concept_bench_pictures-cat+red_apple.png"
