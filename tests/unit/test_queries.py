import numpy as np
import pytest
import torch
from toy_model import ToyModel

from fmn_core.attention.queries import constant_directions, sampled_queries
from fmn_core.attention.zeroing import split_heads
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import Concept

SIZE = (4, 6, 5)
TEMPLATES = ["a photo of a {} in the park", "a {} on a table"]


@pytest.fixture
def model():
    return ToyModel(dim=96)


def queries_of(model, texts):
    found = {}
    sampled_queries(
        model, model.encode(texts), SIZE, lambda n, layer, q: found.setdefault(layer.name, []).append(q), steps=3
    )
    return found


def test_queries_are_those_of_every_layer_step_and_prompt(model):
    found = queries_of(model, ["a zebra", "a horse"])
    assert set(found) == {layer.name for layer in model.cross_attention()}
    for layer in model.cross_attention():
        width = layer.projections["to_q"].weight.shape[0] // layer.heads
        assert [tuple(q.shape) for q in found[layer.name]] == [(1, layer.heads, 30, width)] * 6


def test_directions_are_the_least_squares_solution_for_ones(model):
    directions = constant_directions(model, model.encode(["a zebra"]), SIZE, eps=1e-3)
    seen = {}
    sampled_queries(model, model.encode(["a zebra"]), SIZE, lambda n, at, q: seen.setdefault(at.name, []).append(q))
    for layer in model.cross_attention():
        q = torch.cat(seen[layer.name], 2)[0].double().numpy()
        u = directions[layer.name].reshape(layer.heads, -1).numpy()
        for h in range(layer.heads):
            ridge = (1e-3 * (q[h] ** 2).sum() / q.shape[2]) ** 0.5 * np.eye(q.shape[2])
            ones = np.concatenate([np.ones(len(q[h])), np.zeros(q.shape[2])])
            reference = np.linalg.lstsq(np.concatenate([q[h], ridge]), ones, rcond=None)[0]
            np.testing.assert_allclose(u[h], reference, rtol=1e-6, atol=1e-9)


def test_a_logit_shift_lowers_the_logits_of_the_named_rows_by_tau(model):
    """With next to no ridge the named rows' logits fall by tau times what the queries make of u."""
    one = Concept(["zebra"], "object", TEMPLATES[:1], end_token="none")
    settings = ClosedFormSettings(
        train="keys", logit_shift=3.0, ridge=1e-9, preserve_weight=1e-9, imagined_words=0, rank=96
    )
    patch = forget_closed_form(model, [one], settings, size=SIZE)
    full = model.encode([TEMPLATES[0].format("zebra")])[0]
    at = full.tokens["l"][0].index(model.ids("zebra")[0])
    directions = constant_directions(model, model.encode([full.text]), SIZE)
    for layer in model.cross_attention():
        factors = patch.factors[f"lora_unet_{layer.name}_to_k".replace(".", "_")]
        assert factors.rank == 1
        moved = split_heads((full.context @ factors.delta().T)[None], layer.heads)[0]
        q = torch.cat(queries_of(model, [full.text])[layer.name], 2)[0]
        logits = q @ moved.transpose(1, 2) / q.shape[-1] ** 0.5
        projected = (q.double() @ directions[layer.name].reshape(layer.heads, -1, 1))[..., 0]
        torch.testing.assert_close(logits[..., at].double(), -3.0 * projected, rtol=0.02, atol=0.02)
    assert set(patch.figures["layers"]) == {f"{layer.name}.to_k" for layer in model.cross_attention()}


def test_values_move_beside_keys_that_are_shifted(model):
    one = Concept(["zebra"], "object", TEMPLATES)
    values = forget_closed_form(model, [one], ClosedFormSettings(imagined_words=4, ridge=1e-4, preserve_weight=1.0))
    both = forget_closed_form(
        model,
        [one],
        ClosedFormSettings(train="keys and values", logit_shift=2.0, imagined_words=4, ridge=1e-4, preserve_weight=1.0),
        size=SIZE,
    )
    assert set(values.factors) < set(both.factors)
    for name, factors in values.factors.items():
        torch.testing.assert_close(both.factors[name].delta(), factors.delta())
