import pytest
from toy_model import ToyModel

from bench.queries import sampled_queries

SIZE = (4, 6, 5)


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
