import math

import pytest
import torch
from toy_model import ToyModel

from fmn_core.attention import attention_probabilities
from fmn_core.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.hooks import LowRank, attention_probe, injected
from fmn_core.resteer import (
    Preservation,
    ResteerSettings,
    Trainer,
    attention_loss,
    auto_learning_rate,
    forget_by_resteering,
    trained_layers,
)

ZEBRA = Concept(["zebra"], "object", ["a photo of a {}", "a {} in the park"])
LATENTS = torch.zeros(1, 4, 4, 4)


@pytest.fixture
def model():
    return ToyModel()


def test_both_loss_forms_against_their_formulas():
    g = torch.Generator().manual_seed(0)
    columns = [torch.rand(1, 2, 5, 3, generator=g), torch.rand(1, 2, 9, 3, generator=g)]
    flat = torch.cat([c.flatten() for c in columns]).double()
    assert float(attention_loss(columns, "paper")) == pytest.approx(float((flat**2).sum()), rel=1e-6)
    assert float(attention_loss(columns, "released code")) == pytest.approx(float(flat.norm()), rel=1e-6)


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


@pytest.mark.parametrize(
    "layer", [torch.nn.Linear(6, 5), torch.nn.Conv2d(6, 5, 3, stride=2, padding=1), torch.nn.Conv2d(6, 5, 1)]
)
def test_factors_beside_a_layer_equal_factors_in_its_weight(layer):
    from fmn_core.patch import Factors

    factor = LowRank(layer, 3, torch.Generator().manual_seed(1), torch.device("cpu"))
    factor.up.data.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 6, 8, 8) if layer.weight.ndim == 4 else torch.randn(2, 7, 6)
    with injected({"a": layer}, {"a": factor}):
        beside = layer(x)
    layer.weight.data += Factors(factor.up.detach(), factor.down.detach(), 3.0).delta()
    torch.testing.assert_close(beside, layer(x), atol=1e-5, rtol=1e-5)


def test_preservation_is_the_relative_movement(model):
    layers = trained_layers(model, "keys and values")
    factors = {n: LowRank(m, 2, torch.Generator().manual_seed(0), model.device) for n, m in layers.items()}
    rows = model.encode(["a dog in the park"])[0].context
    assert float(Preservation(model, factors, rows)()) == 0
    for f in factors.values():
        f.up.data.normal_(generator=torch.Generator().manual_seed(5))
    parts = []
    for name, factor in factors.items():
        w = layers[name].weight
        parts.append(((rows @ (factor.up @ factor.down).T).norm() / (rows @ w.T).norm()) ** 2)
    assert float(Preservation(model, factors, rows)()) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-4)


def test_training_takes_attention_away(model):
    settings = ResteerSettings(steps=60, learning_rate=2e-2, rank=4, preservation=0.0)
    patch = forget_by_resteering(model, [ZEBRA], LATENTS, settings)
    mass = patch.figures["mass"]
    assert sum(mass[-5:]) < 0.5 * sum(mass[:5])


def test_factors_start_at_the_model(model):
    trainer = Trainer(model, [ZEBRA], ResteerSettings(), LATENTS)
    assert all(float(f.delta().abs().max()) == 0 for f in trainer.patch_factors().values())


@pytest.mark.parametrize(("train", "count"), [("values", 2), ("keys and values", 4), ("attn2", 8), ("whole UNet", 8)])
def test_what_is_trained(model, train, count):
    assert len(trained_layers(model, train)) == count


def test_gradients_are_clipped(model):
    trainer = Trainer(model, [ZEBRA], ResteerSettings(clip=1e-3), LATENTS)
    for f in trainer.factors.values():
        f.up.data.normal_(generator=torch.Generator().manual_seed(1))
    trainer.step(0)
    total = torch.stack([p.grad.norm() for p in trainer.parameters if p.grad is not None]).norm()
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_stops_at_the_target_mass(model):
    settings = ResteerSettings(steps=200, learning_rate=2e-2, rank=4, preservation=0.0, target_mass=0.8)
    assert forget_by_resteering(model, [ZEBRA], LATENTS, settings).figures["steps"] < 200


def test_one_seed_one_patch(model):
    runs = [
        forget_by_resteering(model, [ZEBRA], LATENTS, ResteerSettings(steps=4, seed=s)).state_dict() for s in (7, 7, 8)
    ]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert any(not torch.equal(runs[0][k], runs[2][k]) for k in runs[0])


def test_model_is_unchanged(model):
    before = {n: m.weight.clone() for n, m in model.linear_layers().items()}
    forget_by_resteering(model, [ZEBRA], LATENTS, ResteerSettings(steps=3, train="whole UNet"))
    assert all(torch.equal(m.weight, before[n]) and not m._forward_hooks for n, m in model.linear_layers().items())


def test_infinite_loss_stops_with_a_sentence(model):
    with pytest.raises(ForgetError, match="finite loss, got nan at step 1"):
        forget_by_resteering(model, [ZEBRA], torch.full((1, 4, 4, 4), float("nan")), ResteerSettings(steps=2))


def test_auto_rate_moves_weights_at_the_published_pace():
    """One AdamW step on full weights against one on factors whose `up` alone moves, in mean square."""
    in_features, rank = 768, 16
    layer = torch.nn.Linear(in_features, 320, bias=False)
    factor = LowRank(layer, rank, torch.Generator().manual_seed(0), torch.device("cpu"))
    rate = auto_learning_rate(in_features, rank)
    factor.up.data = rate * torch.randint(
        0, 2, factor.up.shape, generator=torch.Generator().manual_seed(1)
    ).float().mul(2).sub(1)
    moved = (factor.up @ factor.down).detach().pow(2).mean().sqrt()
    assert float(moved) == pytest.approx(2e-6, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps of at least 1, got 0"),
        ({"rank": 0}, "rank of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate of at least 0"),
        ({"train": "everything"}, "train to be one of values"),
        ({"loss": "mine"}, "loss to be one of paper"),
        ({"end_token": "last"}, "end_token to be one of none"),
    ],
)
def test_bad_settings_are_refused(model, change, message):
    with pytest.raises(ForgetError, match=message):
        forget_by_resteering(model, [ZEBRA], LATENTS, ResteerSettings(**change))
