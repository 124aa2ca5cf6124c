"""A solve in the space of few rows is the solve in their whole width."""

from dataclasses import replace

import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form import forget
from fmn_core.closed_form.collect import row_space
from fmn_core.closed_form.moments import Moments
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
    monkeypatch.setattr(forget, "row_space", lambda prompts: used.append(row_space(prompts)) or used[-1])
    dual = forget.forget_closed_form(model, [concept], settings)
    monkeypatch.setattr(forget, "row_space", lambda prompts: None)
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
    model = ToyModel()
    assert row_space(model.encode(["a zebra", "a horse"])) is None and row_space([]) is None
    [prompt] = model.encode(["a zebra"])
    wide = replace(prompt, context=torch.nn.functional.pad(prompt.context, (0, 2000)))
    basis = row_space([wide])
    torch.testing.assert_close(basis.T @ basis, torch.eye(len(prompt.context), dtype=torch.float64))
    torch.testing.assert_close(wide.context.double() @ basis @ basis.T, wide.context.double())


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
