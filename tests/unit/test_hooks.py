"""Hooks on a model while it trains: they see and scale its own attention, and are gone afterwards."""

import math

import pytest
import torch

from fmn_core.attention.hooks import attention_probe, checkpointed, scaled_columns
from fmn_core.attention.zeroing import attention_probabilities
from fmn_core.training.trainable import LowRank, injected


def test_probe_sees_the_models_own_attention(model):
    prompt, seen = model.encode(["a photo of a zebra"])[0], {}
    x = torch.randn(1, 4, 4, 4)
    with attention_probe(model.cross_attention(), lambda layer, a: seen.update({layer.name: a})):
        model.denoise(x, torch.ones(1), [prompt])
    layer = model.cross_attention()[0]
    h = (x / math.sqrt(2)).flatten(2).transpose(1, 2)
    expected = attention_probabilities(
        layer.projections["to_q"](h), layer.projections["to_k"](prompt.context[None]), layer.heads
    )
    torch.testing.assert_close(seen[layer.name], expected)
    assert list(seen) == [layer.name for layer in model.cross_attention()]


def test_hooks_are_gone_after_an_error(model):
    layers = model.linear_layers()
    factors = {n: LowRank(m, 2, torch.Generator(), model.device) for n, m in layers.items()}
    with (
        pytest.raises(RuntimeError),
        injected(layers, factors),
        attention_probe(model.cross_attention(), lambda layer, a: None),
    ):
        raise RuntimeError
    assert all(not m._forward_hooks for m in layers.values())


def test_scaled_columns_are_zero_attention_by_brute_force(model):
    [prompt] = model.encode(["a photo of a zebra"])
    layer, x = model.cross_attention()[0], torch.randn(1, 5, 4)
    weight = torch.zeros(1, 77)
    weight[0, 5] = 1
    seen, p = [], layer.projections
    with scaled_columns([layer], weight):
        seen = p["to_v"](prompt.context[None])
    a = attention_probabilities(p["to_q"](x), p["to_k"](prompt.context[None]), 1)[0, 0]
    a[:, 5] = 0
    torch.testing.assert_close(
        a @ p["to_v"](prompt.context),
        attention_probabilities(p["to_q"](x), p["to_k"](prompt.context[None]), 1)[0, 0] @ seen[0],
    )


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.runs = 0

    def forward(self, x, scale=1.0):
        self.runs += 1
        return torch.tanh(self.layer(x)) * scale


def test_checkpointing_gives_the_same_gradients_and_runs_twice():
    block, grads = Block(), []
    x = torch.randn(3, 4, requires_grad=True)
    for blocks in ([], [block]):
        with checkpointed(blocks):
            loss = block(x, scale=2.0).sum()
        grads.append(torch.autograd.grad(loss, [x, *block.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*grads))
    assert block.runs == 3 and "forward" not in vars(block)
