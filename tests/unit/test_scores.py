"""Accuracies, CLIP score and zero-shot labels against independent references."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import cosine_similarity, normalize

from fmn_core.errors import ForgetError
from fmn_core.scores.accuracies import harmonic_mean_of_erasure, interval, retain_accuracy, unlearning_accuracy
from fmn_core.scores.clip_score import clip_score, similarities, zero_shot


class HandMade:
    """Pictures of one colour, and texts that name it: features are the colours themselves."""

    name = "colours"
    colours = {"red": (1.0, 0.1, 0.0), "green": (0.0, 1.0, 0.2), "blue": (0.3, 0.0, 1.0)}

    def images(self, images):
        return normalize(images.mean((1, 2)), dim=1)

    def texts(self, texts):
        return normalize(torch.tensor([self.colours[t.split()[-1]] for t in texts]), dim=1)


def pictures(*colours):
    return torch.tensor([HandMade.colours[c] for c in colours])[:, None, None].expand(-1, 4, 6, -1)


def test_accuracies_count():
    seen = ["zebra", "horse", "zebra", "dog"]
    assert unlearning_accuracy(seen, "zebra") == 0.5 and unlearning_accuracy(seen, "cat") == 1
    assert retain_accuracy(seen, ["zebra", "horse", "dog", "dog"]) == 0.75


@pytest.mark.parametrize(("seen", "wanted"), [([], []), (["a"], []), (["a", "b"], ["a"])])
def test_labels_and_pictures_must_match(seen, wanted):
    with pytest.raises(ForgetError, match="pictures and a label for each"):
        retain_accuracy(seen, wanted)


def test_harmonic_mean_of_erasure_is_maces_equation():
    for erased, specific, general in np.random.default_rng(0).uniform(0.01, 0.99, (50, 3)):
        wanted = 3 / (1 / (1 - erased) + 1 / specific + 1 / (1 - general))
        assert harmonic_mean_of_erasure(erased, specific, general) == pytest.approx(wanted, rel=1e-12)
    assert harmonic_mean_of_erasure(0, 1, 0) == 1


@pytest.mark.parametrize("shares", [(1, 1, 0), (0, 0, 0), (0, 1, 1), (1, 0, 1)])
def test_harmonic_mean_is_zero_where_one_term_is(shares):
    assert harmonic_mean_of_erasure(*shares) == 0


@pytest.mark.parametrize("shares", [(95, 1, 0), (0, -0.1, 0), (0, 1, float("nan"))])
def test_shares_are_from_0_to_1(shares):
    with pytest.raises(ForgetError, match="as a share from 0 to 1"):
        harmonic_mean_of_erasure(*shares)


def test_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).exponential(size=40)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", rng=5).confidence_interval
    assert interval(values) == pytest.approx(tuple(wanted), abs=0.03)
    assert interval(values, seed=1) == interval(values, seed=1) != interval(values, seed=2)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(2)
    found = [interval(rng.normal(size=60), level=0.8, seed=k) for k in range(120)]
    assert 0.68 < np.mean([low < 0 < high for low, high in found]) < 0.9
    width = 2 * NormalDist().inv_cdf(0.9) / 60**0.5
    assert np.mean([high - low for low, high in found]) == pytest.approx(width, rel=0.1)


def test_interval_of_equal_values_has_no_width():
    assert interval([0.25]) == (0.25, 0.25) and interval([1, 1, 1]) == (1, 1)


@pytest.mark.parametrize("arguments", [([],), ([1.0, float("nan")],), ([1.0], 1.0), ([1.0], 0.0)])
def test_interval_refuses(arguments):
    with pytest.raises(ForgetError, match="Expected"):
        interval(*arguments)


def test_clip_score_is_the_mean_cosine():
    images, prompts = pictures("red", "green", "blue"), ["red", "blue", "blue"]
    pairs = [("red", "red"), ("green", "blue"), ("blue", "blue")]
    wanted = [cosine_similarity(*(torch.tensor(HandMade.colours[c]).double() for c in p), dim=0) for p in pairs]
    assert clip_score(HandMade(), images, prompts) == pytest.approx(float(sum(wanted)) / 3, abs=1e-6)
    assert clip_score(HandMade(), images[:1], ["red"]) == pytest.approx(1)


def test_one_prompt_is_that_of_every_picture():
    images = pictures("red", "green")
    assert torch.equal(similarities(HandMade(), images, ["blue"]), similarities(HandMade(), images, ["blue"] * 2))


def test_zero_shot_names_the_nearest_label():
    labels = ["green", "blue", "red"]
    assert zero_shot(HandMade(), pictures("red", "blue", "green"), labels) == ["red", "blue", "green"]
    assert zero_shot(HandMade(), pictures("red"), ["green", "blue"]) == ["blue"]


def test_scores_refuse_what_they_cannot_use():
    model, images = HandMade(), pictures("red", "green", "blue")
    with pytest.raises(ForgetError, match="one for each of 3 pictures, got 2"):
        clip_score(model, images, ["red", "green"])
    with pytest.raises(ForgetError, match="at least one picture"):
        clip_score(model, images[:0], ["red"])
    with pytest.raises(ForgetError, match="at least two different labels"):
        zero_shot(model, images, ["red", "red"])
    with pytest.raises(ForgetError, match="one {} for the phrase in every template"):
        zero_shot(model, images, ["red", "blue"], "a picture")
