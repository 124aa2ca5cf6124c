"""A solve in the space of few rows is the solve in their whole width."""

from dataclasses import replace

import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form import collect, forget
from fmn_core.closed_form import row_space as row_space_module
from fmn_core.closed_form.moments import Moments
from fmn_core.closed_form.row_space import row_space
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import Concept

WIDTH = 600
SETTINGS = ClosedFormSettings(
    imagined_words=0, use_everyday_captions=False, vocabulary_words=0, preserve_prompts=["a dog", "horse"]
)


class WideModel(ToyModel):
    """The toy with contexts and weights of 600 columns, in which its own rows are turned."""

    def __init__(self):
        super().__init__()
        self.turn = torch.linalg.qr(torch.randn(WIDTH, self.dim, generator=torch.Generator().manual_seed(0))).Q

    def encode(self, prompts, words=None, padding=None):
        encoded = super().encode(prompts, words, padding)
        return [replace(p, context=p.context @ self.turn.T) for p in encoded]

    def weights(self, names, device="cpu"):
        noise = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)) / WIDTH
        return [
            w @ self.turn.T + torch.randn(len(w), WIDTH, generator=torch.Generator().manual_seed(2)) @ noise
            for w in super().weights(names, device)
        ]


@pytest.mark.parametrize("overshoot", [-1.0, 0.3])
def test_the_patch_is_that_of_the_whole_width(overshoot, monkeypatch):
    model, concept = WideModel(), Concept(["zebra"], "object", ["a {}", "a photo of a {} here"])
    settings = replace(SETTINGS, overshoot=overshoot)
    used = []
    monkeypatch.setattr(collect, "row_space", lambda *rows: used.append(row_space(*rows)) or used[-1])
    dual = forget.forget_closed_form(model, [concept], settings)
    monkeypatch.setattr(collect, "row_space", lambda *rows: None)
    primal = forget.forget_closed_form(model, [concept], settings)
    if overshoot >= 0:
        assert used[0] is not None and used[0].shape[1] < WIDTH
    assert dual.factors.keys() == primal.factors.keys()
    for name, factors in primal.factors.items():
        change = factors.up @ factors.down
        assert (dual.factors[name].up @ dual.factors[name].down - change).norm() < 1e-3 * change.norm()
    for figure in ("ridge", "preserve_weight", "held_out_missed", "held_out_drift"):
        assert dual.figures[figure] == pytest.approx(primal.figures[figure], rel=1e-3), figure


def test_many_rows_have_no_smaller_space():
    rows = torch.randn(3, 40)
    assert row_space([rows[:, :5]], [rows[:, :5]], [rows[:, :5]]) is None
    basis = row_space([rows], [rows], [torch.randn(4, 40)], [torch.randn(2, 40)])
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    torch.testing.assert_close(rows.double() @ basis @ basis.T, rows.double())


def test_wide_models_are_solved_in_the_leading_directions(monkeypatch):
    """Rows of a decaying spectrum, as those of text encoders: what the edit does to them is nearly what the whole solve does."""
    g = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=g)).Q
    mixing = turn * torch.arange(1, WIDTH + 1).pow(-0.8)
    steered, kept = (torch.randn(n, WIDTH, generator=g) @ mixing.T for n in (400, 3000))
    # The way that steered rows have to go is much alike, as that of a phrase is.
    target = steered + torch.randn(400, 6, generator=g) @ torch.randn(6, WIDTH, generator=g) @ mixing.T
    monkeypatch.setattr(row_space_module, "WIDEST", 500)
    monkeypatch.setattr(row_space_module, "LEADING", 256)
    basis = row_space([steered], [target], [kept])
    assert basis.shape == (WIDTH, 256)
    whole, reduced = Moments.empty(WIDTH), Moments.empty(WIDTH, basis=basis)
    for moments in (whole, reduced):
        moments.add_pair(steered, target)
        moments.add_preserved(kept)
    edit, small = whole.solve(1e-2, 1.0), reduced.solve(1e-2, 1.0)
    small = basis @ small @ basis.T
    metric = torch.eye(WIDTH, dtype=torch.float64)
    for figure in (whole.missed, whole.drift):
        assert figure(small, metric) == pytest.approx(figure(edit, metric), abs=0.03)


def test_the_ridge_is_relative_to_the_whole_width():
    torch.manual_seed(0)
    rows, basis = torch.randn(3, 20).double(), None
    basis = torch.linalg.qr(rows.T).Q
    plain, reduced = Moments.empty(20), Moments.empty(20, basis=basis)
    for moments in (plain, reduced):
        moments.add_pair(rows, -rows)
        moments.add_preserved(rows[:1])
    torch.testing.assert_close(basis @ reduced.solve(1e-3, 1.0) @ basis.T, plain.solve(1e-3, 1.0))
    assert reduced.without_rows().width == 20 and (reduced + reduced).width == 20
