"""The solve against independent references, over shapes, ranks, collinear and repeated concepts, and nothing to preserve."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import ToyModel

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.moments import Moments
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.weight_choice import check_condition
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.patch.factors import weighted_range
from fmn_core.patch.shrink import balanced

PROBLEM = {
    "dim": st.integers(1, 12),
    "rows": st.integers(1, 20),
    "kept": st.integers(0, 20),
    "rank": st.integers(1, 12),
    "repeat": st.integers(1, 3),
    "ridge": st.sampled_from([1e-6, 1e-3, 1.0]),
    "weight": st.sampled_from([0.3, 1.0, 30.0]),
    "seed": st.integers(0, 9999),
}


def problem(dim, rows, kept, rank, repeat, seed):
    """Concept rows of some rank, each `repeat` times, their targets, and rows to preserve."""
    g = np.random.default_rng(seed)
    source = g.normal(size=(rows, min(rank, dim))) @ g.normal(size=(min(rank, dim), dim))
    return np.repeat(source, repeat, 0), np.repeat(g.normal(size=(rows, dim)), repeat, 0), g.normal(size=(kept, dim))


@given(**PROBLEM)
@settings(max_examples=200, deadline=None)
def test_the_solve_is_the_least_squares_solution(dim, rows, kept, rank, repeat, ridge, weight, seed):
    """scipy's least squares on the stacked rows, in float64, knows nothing of moments or normal equations."""
    source, target, preserve = problem(dim, rows, kept, rank, repeat, seed)
    moments = Moments.empty(dim)
    moments.add_pair(torch.from_numpy(source), torch.from_numpy(target))
    if kept:
        moments.add_preserved(torch.from_numpy(preserve))
    found = moments.solve(ridge, weight).numpy()
    trace = (source**2).sum() / len(source) + (weight * (preserve**2).sum() / kept if kept else 0)
    blocks = [source / len(source) ** 0.5, np.eye(dim) * (ridge * trace / dim) ** 0.5]
    wanted = [(target - source) / len(source) ** 0.5, np.zeros((dim, dim))]
    if kept:
        blocks.append(preserve * (weight / kept) ** 0.5)
        wanted.append(np.zeros((kept, dim)))
    reference = scipy.linalg.lstsq(np.concatenate(blocks), np.concatenate(wanted))[0].T
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, reference, rtol=1e-5, atol=1e-6 * max(1.0, np.abs(reference).max()))


@given(out=st.integers(1, 9), **PROBLEM)
@settings(max_examples=100, deadline=None)
def test_factors_are_the_dense_edit(out, dim, rows, kept, rank, repeat, ridge, weight, seed):
    source, target, preserve = problem(dim, rows, kept, rank, repeat, seed)
    moments = Moments.empty(dim)
    moments.add_pair(torch.from_numpy(source), torch.from_numpy(target))
    moments.add_preserved(torch.from_numpy(preserve))
    edit = moments.solve(ridge, weight)
    basis, residual = weighted_range(edit, moments.second_moment(ridge, weight), 0.0, dim)
    w = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(out, dim)))
    factors = balanced(w @ basis, basis.T @ edit)
    dense = w @ edit
    assert (factors.delta().double() - dense).norm() <= 1e-6 * max(1e-12, float(w.norm() * edit.norm()))
    assert residual < 1e-9


def test_a_concept_named_twice_is_forgotten_as_one():
    """The same rows twice change neither the mean nor the solution."""
    model = ToyModel()
    exact = {
        "ridge": 1e-4,
        "preserve_weight": 1.0,
        "imagined_words": 0,
        "vocabulary_words": 0,
        "rank": 24,
        "tolerance": 0.0,
    }
    once = Concept(["zebra"], "object", ["a {} in the park", "a {} on a table"])
    twice = Concept(["zebra", "Zebra"], "object", once.templates)
    one, two = (forget_closed_form(model, [c], ClosedFormSettings(**exact)) for c in (once, twice))
    for name, factors in one.factors.items():
        torch.testing.assert_close(two.factors[name].delta(), factors.delta(), rtol=1e-4, atol=1e-6)


def test_float32_agrees_with_float64_and_tells_its_condition():
    model, zebra = ToyModel(), Concept(["zebra"], "object", ["a {} in the park", "a {} on a table"])
    chosen = {"ridge": 1e-3, "preserve_weight": 1.0, "imagined_words": 20}
    precise = forget_closed_form(model, [zebra], ClosedFormSettings(**chosen))
    fast = forget_closed_form(model, [zebra], ClosedFormSettings(precision="float32 on the model's device", **chosen))
    assert (
        fast.figures["condition"] == pytest.approx(precise.figures["condition"], rel=1e-2)
        and 1 < fast.figures["condition"] < 1e5
    )
    for name, factors in precise.factors.items():
        assert (fast.factors[name].delta() - factors.delta()).norm() < 1e-3 * factors.delta().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hopeless_condition_is_an_error(dtype):
    eye = torch.eye(5, dtype=dtype)
    assert check_condition(eye * torch.tensor([1.0, 1, 1, 1, 100], dtype=dtype)) == pytest.approx(100)
    with pytest.raises(ForgetError, match="larger ridge"):
        check_condition(eye * torch.tensor([1.0, 1, 1, 1, 1e-20], dtype=dtype))
    with pytest.raises(ForgetError, match="larger ridge"):
        check_condition(eye * torch.tensor([1.0, 1, 1, 1, 0], dtype=dtype))
