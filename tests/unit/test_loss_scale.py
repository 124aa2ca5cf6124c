"""Half precision: what overflows is repeated with a smaller scale, what vanishes is kept by a larger one."""

import itertools

import pytest
import torch
from toy_model import ToyModel

from fmn_core.concepts.concept import concept_from_text
from fmn_core.training.inversion import InversionSettings, invert_concept
from fmn_core.training.loss_scale import INITIAL, SMALLEST, LossScale
from fmn_core.training.settings import GradientSettings
from fmn_core.training.trainer import Trainer

STEPS = 12


class ThroughHalf(torch.autograd.Function):
    """Passes values on; gradients go through float16, times `gain`, as in a model that computes in half precision."""

    @staticmethod
    def forward(ctx, x, gain):
        ctx.gain = gain
        return x

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * ctx.gain).half().float() / ctx.gain, None


class HalfModel(ToyModel):
    """A toy whose backward pass is in half precision; a `gain` above 1 overflows early, one below 1 vanishes."""

    def __init__(self, gain: float):
        super().__init__()
        for layer in self.layers:
            for name in ("to_q", "to_k"):
                layer.projections[name].register_forward_hook(lambda m, i, out: ThroughHalf.apply(out, gain))

    def compute_dtype(self):
        return torch.float16

    def denoise(self, x, sigma, prompts):
        return ThroughHalf.apply(super().denoise(x, sigma, prompts), 1.0)


def trained(model, references) -> tuple[list[float], list[torch.Tensor], LossScale]:
    """Losses of some steps, the parts after each, and the loss scale at the end."""
    settings = GradientSettings(steps=STEPS, learning_rate=3e-3, rank=4, preserve_prompts=["horse"], drift_every=0)
    trainer = Trainer(model, [concept_from_text("zebra", "object")], [references], settings)
    losses, states = [], []
    for number in range(STEPS):
        step = trainer.step(number)
        losses.append(step.loss)
        states.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))
    return losses, states, trainer.loss_scale


@pytest.mark.parametrize("gain", [1e5, 1e-9])
def test_every_reported_step_is_that_of_full_precision(references, gain):
    losses, states, scale = trained(HalfModel(gain), references)
    expected, wanted, _ = trained(ToyModel(), references)
    assert losses == pytest.approx(expected, rel=2e-2)
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(states))
    assert (states[-1] - wanted[-1]).norm() < 0.1 * wanted[-1].norm()
    assert gain < 1 or scale.value < INITIAL


def test_an_inversion_repeats_steps_that_overflow(model, references):
    class Overflowing(HalfModel):
        def denoise(self, x, sigma, prompts):
            return ThroughHalf.apply(ToyModel.denoise(self, x, sigma, prompts), 1e5)

    settings = InversionSettings(tokens=2, words="zebra", steps=4, warmup=0, learning_rate=1e-2)
    found = invert_concept(Overflowing(1.0), references, ["a {}"], settings)
    expected = invert_concept(model, references, ["a {}"], settings)
    assert found.figures["losses"] == pytest.approx(expected.figures["losses"], rel=2e-2)


def test_only_half_precision_is_scaled():
    assert LossScale(torch.bfloat16).value == LossScale(torch.float32).value == 1
    assert not LossScale(torch.float32).reduce()
    scale, halvings = LossScale(torch.float16), 0
    while scale.reduce():
        halvings += 1
    assert scale.value == SMALLEST and halvings == 24
