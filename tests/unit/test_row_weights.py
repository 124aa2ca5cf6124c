"""Contexts that end early: the same rows, each standing for as many as it must."""

import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form.collect import collect_moments
from fmn_core.closed_form.moments import Moments
from fmn_core.concepts.concept import Concept
from fmn_core.model.tokens import row_weights

PROMPT = "a photo of a zebra in the park"


@pytest.fixture
def model():
    return ToyModel()


@pytest.mark.parametrize("padding", [1, 3, 60, 76])
def test_rows_stand_for_the_whole_context(model, padding):
    [whole], [short] = model.encode([PROMPT]), model.encode([PROMPT], padding=padding)
    assert len(short.context) == min(77, 10 + padding) and torch.equal(
        short.context, whole.context[: len(short.context)]
    )
    weight = row_weights(short, model.vocabulary)
    assert torch.equal(weight[:10], torch.ones(10)) and weight.sum() == pytest.approx(77, abs=1e-4)
    assert torch.equal(row_weights(whole, model.vocabulary), torch.ones(77))


def test_a_weight_is_that_many_rows():
    g = torch.Generator().manual_seed(0)
    rows, target = torch.randn(4, 5, generator=g), torch.randn(4, 5, generator=g)
    weight = torch.tensor([1.0, 2.0, 3.0, 1.0])
    weighted, repeated = Moments.empty(5), Moments.empty(5)
    weighted.add_pair(rows, target, weight)
    weighted.add_preserved(rows, weight)
    index = torch.repeat_interleave(torch.arange(4), weight.int())
    repeated.add_pair(rows[index], target[index])
    repeated.add_preserved(rows[index])
    for name in ("cc", "tc", "tt", "pp"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name), rtol=1e-6, atol=1e-6)
    assert weighted.sources == repeated.sources == 7 and weighted.preserved == 7


def test_short_contexts_count_as_many_rows_as_whole_ones(model, monkeypatch):
    concept = Concept(["zebra"], "object", ["a photo of a {} in the park", "a {} on a table", "{}"])
    short = collect_moments(model, [concept], [[""], ["a horse"]], 10)
    monkeypatch.setattr("fmn_core.closed_form.collect.PADDING", None)
    whole = collect_moments(model, [concept], [[""], ["a horse"]], 10)
    assert [(m.sources, m.preserved) for m in short] == [(m.sources, m.preserved) for m in whole]
