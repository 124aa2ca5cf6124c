"""What a concept still does to a model's predictions, on the miniature."""

import dataclasses

import pytest
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.model import ComfyModel

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.errors import ForgetError
from fmn_core.scores.effect import concept_effect

OTHERS = [f"a photo of a {name}" for name in ("horse", "house", "guitar", "car", "owl")]


@pytest.fixture(scope="module")
def base(miniature):
    return ComfyModel(*miniature[:2])


@pytest.fixture(scope="module")
def zebra(base):
    return make_concept(base, "zebra", "object")


def test_the_untouched_model_has_all_of_it(base, zebra):
    effect = concept_effect(base, base, zebra, OTHERS)
    assert effect.left == pytest.approx(1) and effect.missed == pytest.approx(1) and effect.others == 0


def test_a_patch_takes_it_away_by_its_strength(miniature, base, zebra):
    patch = forget_closed_form(base, [zebra], ClosedFormSettings(imagined_words=50))
    effects, passes = [], []
    for strength in (0.5, 1.0):
        patched = ComfyModel(host.apply_patch(miniature[0], patch, strength)[0], miniature[1])
        effects.append(concept_effect(base, patched, zebra, OTHERS, step=lambda: passes.append(1)))
    host.load(miniature[0])
    half, whole = effects
    assert 0.2 < half.left < 1 and abs(whole.left) < 0.2 and whole.left < half.left
    assert whole.missed < 0.5 * half.missed and whole.others < 0.5
    assert len(passes) == 2 * 3 * 3 * (4 + 5)


@torch.no_grad()
def test_the_figures_are_those_of_their_definition(base, zebra):
    """A model that predicts the mean of what it does with and without the name."""
    [bare] = base.encode(["a photo of a"])

    class Halfway:
        device = base.device

        def denoise(self, x, sigma, prompts):
            [prompt] = prompts
            return (base.denoise(x, sigma, [prompt]) + base.denoise(x, sigma, [bare])) / 2

    one = dataclasses.replace(zebra, templates=["a photo of a {}"])
    effect = concept_effect(base, Halfway(), one, OTHERS[:1])
    assert effect.left == pytest.approx(0.5, abs=1e-4) and effect.missed == pytest.approx(0.5, abs=1e-4)


def test_nothing_to_measure(base, zebra):
    with pytest.raises(ForgetError, match="Expected templates and other prompts, got .* and 0"):
        concept_effect(base, base, zebra, [])
