import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.moments import Moments
from fmn_core.closed_form.robust import revival, robust_moments
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import Concept


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def test_revival_is_the_input_that_undoes_an_edit(g):
    """Against autograd: c' minimises sum |W' c' - W c|^2 + lambda |c'|^2 over two layers."""
    layers = [torch.randn(n, 7, generator=g, dtype=torch.float64) for n in (5, 9)]
    edit = torch.randn(7, 7, generator=g, dtype=torch.float64) * 0.3
    metric = sum(w.T @ w for w in layers)
    c = torch.randn(7, generator=g, dtype=torch.float64)
    found = (revival(edit, metric, 0.05) @ c).requires_grad_()
    penalty = 0.05 * metric.trace() / 7
    objective = sum(((w + w @ edit) @ found - w @ c).square().sum() for w in layers) + penalty * found.square().sum()
    objective.backward()
    assert found.grad.abs().max() < 1e-10


def test_rounds_add_the_revived_rows_one_by_one(g):
    source, target = (torch.randn(11, 7, generator=g, dtype=torch.float64) for _ in range(2))
    kept, w = (torch.randn(n, 7, generator=g, dtype=torch.float64) for n in (13, 6))
    moments, metric = Moments.empty(7), w.T @ w
    moments.add_pair(source, target, source[:2])
    moments.add_preserved(kept)
    found = robust_moments(moments, metric, 1e-3, 1.0, 2)
    rows = Moments.empty(7)
    rows.add_pair(source, target, source[:2])
    rows.add_preserved(kept)
    for _ in range(2):
        map_ = revival(rows.solve(1e-3, 1.0), metric)
        rows.add_pair(source @ map_.T, target, source[:2] @ map_.T)
    assert found.sources == rows.sources == 33 and found.preserved == rows.preserved == 13
    for name in ("cc", "tc", "tt", "pp", "named", "nn"):
        torch.testing.assert_close(getattr(found, name), getattr(rows, name))


def test_what_revived_the_concept_revives_it_less():
    """After a round, the input that undid the first edit no longer does; figures over the real layers of the toy."""
    model = ToyModel()
    zebra = Concept(["zebra"], "object", ["a photo of a {} in the park", "a {} on a table"])
    plain, robust = (
        forget_closed_form(
            model, [zebra], ClosedFormSettings(robust_rounds=n, imagined_words=0, rank=24, tolerance=0.0)
        )
        for n in (0, 3)
    )
    layer = model.cross_attention()[0]
    w, name = model.weights([(layer.name, "to_v")])[0].double(), f"lora_unet_{layer.name}_to_v".replace(".", "_")
    c = model.encode(["a photo of a zebra in the park"])[0].context[5].double()
    edited = w + plain.factors[name].delta().double()
    # the smallest input that gives the concept's value back, were the layer edited by the plain patch
    back = torch.linalg.lstsq(torch.cat([edited, 0.05 * torch.eye(24)]), torch.cat([w @ c, torch.zeros(24)])[:, None])
    undone = (edited @ back.solution[:, 0] - w @ c).norm()
    after = ((w + robust.factors[name].delta().double()) @ back.solution[:, 0] - w @ c).norm()
    assert after > 1.5 * undone
