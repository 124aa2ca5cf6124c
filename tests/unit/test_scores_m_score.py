"""M-Score on the toy: two inversions that differ in the model alone."""

import contextlib

import pytest
import torch
from toy_model import ToyModel

from fmn_core.errors import ForgetError
from fmn_core.model.tokens import PLACEHOLDER
from fmn_core.scores.m_score import m_score, pooled_features
from fmn_core.training.inversion import InversionSettings, invert_concept
from fmn_core.training.references import References

TEMPLATES = ["a photo of a {}", "a {} in the park"]
SETTINGS = InversionSettings(tokens=1, start="noise", steps=20, warmup=2, learning_rate=5e-2, seed=4)


@pytest.fixture
def references():
    return References(torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3)))


def edited():
    """A toy whose values are other ones, as a patch leaves them."""
    model = ToyModel()
    for layer in model.layers:
        layer.projections["to_v"].weight.data *= -0.5
    return model


def test_score_is_the_cosine_of_inverted_and_named_prompts(references):
    original, forgetting = ToyModel(), edited()
    found = m_score(original, forgetting, references, "zebra", TEMPLATES, SETTINGS)
    for model, each, mean in ((original, found.each_before, found.before), (forgetting, found.each_after, found.after)):
        word = invert_concept(model, references, TEMPLATES, SETTINGS).embedding
        wanted = []
        for template in TEMPLATES:
            named, inverted = original.encode([template.format("zebra"), template.format(PLACEHOLDER)], [None, word])
            a, b = (p.context[p.tokens["l"][0].index(2)].double() for p in (named, inverted))
            wanted.append(float(a @ b / (a.norm() * b.norm())))
        assert each == pytest.approx(wanted, abs=1e-6) and mean == pytest.approx(sum(wanted) / 2, abs=1e-6)
    assert found.before != found.after


def test_a_model_against_itself_scores_the_same(references):
    found = m_score(ToyModel(), ToyModel(), references, "zebra", TEMPLATES, SETTINGS)
    assert found.each_before == found.each_after
    assert found.original.figures["losses"] == found.forgetting.figures["losses"]


def test_vectors_that_are_the_concepts_own_score_one():
    model = ToyModel()
    features = pooled_features(model)
    word = {"l": model.table[model.ids("zebra")]}
    for template in TEMPLATES:
        named, inverted = features(template.format("zebra"), None), features(template.format(PLACEHOLDER), word)
        torch.testing.assert_close(named, inverted)


def test_other_features_can_be_given(references):
    asked = []

    def features(prompt, word):
        asked.append((prompt, word is None))
        return torch.tensor([1.0, 0.0]) if word is None else torch.tensor([1.0, 1.0])

    found = m_score(ToyModel(), edited(), references, "zebra", TEMPLATES, SETTINGS, features)
    assert found.before == found.after == pytest.approx(0.5**0.5)
    assert ("a photo of a zebra", True) in asked and (f"a photo of a {PLACEHOLDER}", False) in asked


def test_models_are_made_ready_one_after_the_other(references):
    original, forgetting, log = ToyModel(), edited(), []

    @contextlib.contextmanager
    def ready(model):
        log.append(("enter", model is forgetting))
        yield
        log.append(("exit", model is forgetting))

    told = []
    m_score(original, forgetting, references, "zebra", TEMPLATES, SETTINGS, None, ready, lambda *a: told.append(a))
    assert log == [("enter", False), ("exit", False), ("enter", True), ("exit", True)]
    assert [done for done, _, _ in told] == list(range(1, 41)) and {total for _, total, _ in told} == {40}


def test_an_early_end_is_not_for_one_of_the_two(references):
    found = m_score(ToyModel(), edited(), references, "zebra", TEMPLATES, SETTINGS, progress=lambda *a: True)
    assert found.original.figures["steps"] == found.forgetting.figures["steps"] == SETTINGS.steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": InversionSettings(start="words", words="zebra")}, "does not name the concept"),
        ({"concept_phrase": " "}, "a phrase of 1 to"),
        ({"templates": []}, "templates with one {}"),
        ({"templates": ["a picture"]}, "one {} for the phrase in every template"),
    ],
)
def test_m_score_refuses(references, changes, message):
    arguments = {"concept_phrase": "zebra", "templates": TEMPLATES, "settings": SETTINGS} | changes
    with pytest.raises(ForgetError, match=message):
        m_score(ToyModel(), edited(), references, **arguments)
