"""Residue of a forgotten concept in pictures: ablated prompts, similarity and probability against references."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.concept_bench.asks import asks_of
from bench.concept_bench.residue import (
    ablated_ask,
    excess_similarity,
    mean_probability,
    residue_figures,
    without_phrases,
)
from bench.concept_bench.tasks import Task
from mini_sd.concepts import STYLE_NAMES
from mini_sd.judge import CLASS_NAMES, Judge, classify, features, load_judge, probabilities


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture
def images():
    return torch.rand(6, 128, 128, 3, generator=torch.Generator().manual_seed(0))


def random_features(seed: int, count: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(count, 40, generator=generator, dtype=torch.float64) for _ in range(3))


def reference(after: torch.Tensor, concept: torch.Tensor, ablated: torch.Tensor) -> float:
    """excess_similarity from angles between rows, with numpy, a picture at a time."""
    gained = possible = 0.0
    for f, a, b in zip(after.numpy(), concept.numpy(), ablated.numpy()):
        similar = float(np.dot(f, a) / (np.linalg.norm(f) * np.linalg.norm(a)))
        floor = float(np.dot(b, a) / (np.linalg.norm(b) * np.linalg.norm(a)))
        gained, possible = gained + similar - floor, possible + 1 - floor
    return gained / possible


@given(st.integers(0, 2**31), st.integers(1, 9))
def test_similarity_is_that_of_the_reference(seed, count):
    rows = random_features(seed, count)
    assert excess_similarity(*rows) == pytest.approx(reference(*rows), abs=1e-12)


@given(st.integers(0, 2**31), st.floats(0.1, 50))
def test_the_untouched_model_scores_1_and_the_ablated_prompt_0_at_any_scale(seed, scale):
    _, concept, ablated = random_features(seed)
    assert excess_similarity(concept * scale, concept, ablated) == pytest.approx(1, abs=1e-12)
    assert excess_similarity(ablated, concept * scale, ablated) == pytest.approx(0, abs=1e-12)


def test_a_picture_that_resembles_neither_scores_0_and_one_in_between_its_angle():
    f, a, b = torch.eye(3)
    assert excess_similarity(f[None], a[None], b[None]) == pytest.approx(0)
    assert excess_similarity((a + b)[None], a[None], b[None]) == pytest.approx(math.sqrt(0.5))
    near = (a + f)[None] / 2  # b and a are not orthogonal: s(b, a) = .6
    other = torch.tensor([[0.0, 0.6, 0.8]])
    assert excess_similarity(near, a[None], other) == pytest.approx((math.sqrt(0.5) - 0.6) / 0.4)


def test_a_picture_that_the_ablated_prompt_draws_too_has_no_weight():
    f, a, b = torch.eye(3)
    after, concept, ablated = torch.stack([b, f]), torch.stack([a, f]), torch.stack([b, f])
    assert excess_similarity(after, concept, ablated) == pytest.approx(0)
    assert excess_similarity(concept, concept, concept) is None


@pytest.mark.parametrize(
    ("prompt", "phrases", "ablated"),
    [
        ("a picture of a cat in noto style", ["cat", "kitten"], "a picture of a in noto style"),
        ("a picture of a catfish and a cat", ["cat"], "a picture of a catfish and a"),
        ("a mouse, a computer mouse", ["mouse", "computer mouse"], "a , a"),
        ("a noto icon of a horse", ["noto"], "a icon of a horse"),
    ],
)
def test_the_ablated_prompt_lacks_the_phrases_words_alone(prompt, phrases, ablated):
    assert without_phrases(prompt, phrases) == ablated


@pytest.mark.parametrize("concepts", [("cat",), ("noto",), ("cat", "penguin")])
@pytest.mark.parametrize("name", ["target", "synonym", "contexts"])
def test_every_prompt_of_an_ask_loses_its_concept_and_keeps_its_seed(concepts, name):
    task = Task("miniature", "x", concepts, 0)
    ask = asks_of(task)[name]
    found = ablated_ask(task, ask)
    words = {"cat", "kitten", "noto", "penguin", "antarctic bird"} & {w for p in ask.prompts for w in p.split()}
    assert found.seeds == ask.seeds and words
    for ablated, prompt in zip(found.prompts, ask.prompts):
        assert ablated != prompt and not set(concepts) & set(ablated.split())


def test_probabilities_are_the_softmax_of_what_classify_names(judge, images):
    concepts, styles = probabilities(judge, images)
    logits = judge(images.movedim(-1, 1))
    for given_, expected in zip((concepts, styles), logits):
        expected = expected.detach().double().numpy()
        expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
        np.testing.assert_allclose(given_.numpy(), expected, atol=1e-6)
    names, style_names = classify(judge, images)
    assert [CLASS_NAMES[i] for i in concepts.argmax(1)] == names and len(CLASS_NAMES) == concepts.shape[1]
    assert [STYLE_NAMES[i] for i in styles.argmax(1)] == style_names


@torch.inference_mode()
def test_features_are_what_both_heads_read(judge, images):
    found = features(judge, images)
    assert torch.equal(judge.concept(found), judge(images.movedim(-1, 1))[0]) and found.min() >= 0
    assert torch.equal(features(judge, images.movedim(-1, 1)), found)


def test_a_judge_in_training_drops_features_before_its_heads():
    torch.manual_seed(0)
    judge, images = Judge().train(), torch.rand(4, 3, 128, 128)
    assert not torch.equal(judge(images)[0], judge(images)[0])


def test_mean_probability_is_of_each_pictures_own_label(judge, images):
    concepts, styles = probabilities(judge, images)
    labels = ["cat", "car", "cat", "owl", "cat", "wizard"]
    expected = sum(float(concepts[n, CLASS_NAMES.index(label)]) for n, label in enumerate(labels)) / 6
    assert mean_probability(judge, images, labels, is_style=False) == pytest.approx(expected, abs=1e-7)
    expected = float(styles[:, STYLE_NAMES.index("noto")].mean())
    assert mean_probability(judge, images, ["noto"] * 6, is_style=True) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("concept", "is_style"), [("cat", False), ("noto", True)])
def test_figures_of_a_cell(judge, images, concept, is_style):
    task = Task("miniature", "x", (concept,), 0)
    ask = SimpleNamespace(concepts=["cat"] * 6, styles=["noto"] * 6)
    after, ablated = images.roll(1, 0), images.flip(1)
    found = residue_figures(judge, task, ask, images, after, ablated)
    assert found["residue_probability_before"] == pytest.approx(
        mean_probability(judge, images, [concept] * 6, is_style), abs=1e-6
    )
    assert found["residue_probability"] == pytest.approx(
        mean_probability(judge, after, [concept] * 6, is_style), abs=1e-6
    )
    rows = [features(judge, x).double() for x in (after, images, ablated)]
    assert found["residue_similarity"] == pytest.approx(reference(*rows), abs=1e-5)
    assert "residue_similarity" not in residue_figures(judge, task, ask, images, after, images)
