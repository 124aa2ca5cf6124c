"""What is trained beside a layer, factors or a whole change, equals it in the layer's weight."""

import pytest
import torch
from toy_concepts import LATENTS, ZEBRA

from fmn_core.training.settings import GradientSettings, auto_learning_rate
from fmn_core.training.trainable import FullDelta, LowRank, injected
from fmn_core.training.trainer import Trainer


@pytest.mark.parametrize(
    "layer", [torch.nn.Linear(6, 5), torch.nn.Conv2d(6, 5, 3, stride=2, padding=1), torch.nn.Conv2d(6, 5, 1)]
)
def test_factors_beside_a_layer_equal_factors_in_its_weight(layer):
    from fmn_core.patch.patch import Factors

    factor = LowRank(layer, 3, torch.Generator().manual_seed(1), torch.device("cpu"))
    factor.up.data.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 6, 8, 8) if layer.weight.ndim == 4 else torch.randn(2, 7, 6)
    with injected({"a": layer}, {"a": factor}):
        beside = layer(x)
    layer.weight.data += Factors(factor.up.detach(), factor.down.detach(), 3.0).delta()
    torch.testing.assert_close(beside, layer(x), atol=1e-5, rtol=1e-5)


def test_factors_start_at_the_model(model):
    trainer = Trainer(model, [ZEBRA], LATENTS, GradientSettings())
    assert all(float(f.delta().abs().max()) == 0 for f in trainer.patch_factors()[0].values())


@pytest.mark.parametrize(("train", "count"), [("values", 2), ("keys and values", 4), ("attn2", 8), ("whole UNet", 8)])
def test_what_is_trained(model, train, count):
    assert len(model.trained_layers(train)) == count


def test_auto_rate_moves_weights_at_the_published_pace():
    """One AdamW step on full weights against one on factors whose `up` alone moves, in mean square."""
    in_features, rank = 768, 16
    layer = torch.nn.Linear(in_features, 320, bias=False)
    factor = LowRank(layer, rank, torch.Generator().manual_seed(0), torch.device("cpu"))
    rate = auto_learning_rate(in_features, GradientSettings(rank=rank))
    factor.up.data = rate * torch.randint(
        0, 2, factor.up.shape, generator=torch.Generator().manual_seed(1)
    ).float().mul(2).sub(1)
    moved = (factor.up @ factor.down).detach().pow(2).mean().sqrt()
    assert float(moved) == pytest.approx(2e-6, rel=0.05)


def test_full_delta_beside_a_layer_equals_its_factors():
    layer = torch.nn.Conv2d(6, 5, 3, padding=1)
    part = FullDelta(layer, 8, torch.Generator(), torch.device("cpu"))
    part.delta.data.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 6, 8, 8)
    with injected({"a": layer}, {"a": part}):
        beside = layer(x)
    factors, left = part.as_factors(64)
    layer.weight.data += factors.delta()
    torch.testing.assert_close(beside, layer(x), atol=1e-4, rtol=1e-4)
    assert left < 1e-10


def test_full_delta_reports_the_energy_that_reduction_leaves():
    part = FullDelta(torch.nn.Linear(12, 10), 8, torch.Generator(), torch.device("cpu"))
    part.delta.data.normal_(generator=torch.Generator().manual_seed(3))
    factors, left = part.as_factors(4)
    lost = ((part.delta - factors.delta()) ** 2).sum() / (part.delta**2).sum()
    assert left == pytest.approx(float(lost.detach()), rel=1e-4) and factors.rank == 4
