"""Training by gradient on the toy: what it lowers, when it stops, what it leaves alone and what it refuses."""

import pytest
import torch
from toy_concepts import LATENTS, ZEBRA

from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.training.concept_prompts import concept_prompts
from fmn_core.training.forget import forget_by_gradient
from fmn_core.training.references import ImagePairs, References
from fmn_core.training.settings import GradientSettings
from fmn_core.training.trainer import Trainer


def test_training_takes_attention_away(model):
    settings = GradientSettings(steps=60, learning_rate=2e-2, rank=4, preservation=0.0)
    patch = forget_by_gradient(model, [ZEBRA], LATENTS, settings)
    mass = patch.figures["mass"]
    assert sum(mass[-5:]) < 0.5 * sum(mass[:5])


def test_gradients_are_clipped(model):
    trainer = Trainer(model, [ZEBRA], LATENTS, GradientSettings(clip=1e-3))
    for f in trainer.trained.values():
        f.up.data.normal_(generator=torch.Generator().manual_seed(1))
    trainer.step(0)
    total = torch.stack([p.grad.norm() for p in trainer.parameters if p.grad is not None]).norm()
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_stops_at_the_target_mass(model):
    settings = GradientSettings(steps=200, learning_rate=2e-2, rank=4, preservation=0.0, target_mass=0.8)
    assert forget_by_gradient(model, [ZEBRA], LATENTS, settings).figures["steps"] < 200


def test_one_seed_one_patch(model):
    runs = [
        forget_by_gradient(model, [ZEBRA], LATENTS, GradientSettings(steps=4, seed=s)).state_dict() for s in (7, 7, 8)
    ]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert any(not torch.equal(runs[0][k], runs[2][k]) for k in runs[0])


def test_model_is_unchanged(model):
    before = {n: m.weight.clone() for n, m in model.linear_layers().items()}
    forget_by_gradient(model, [ZEBRA], LATENTS, GradientSettings(steps=3, train="whole UNet"))
    assert all(torch.equal(m.weight, before[n]) and not m._forward_hooks for n, m in model.linear_layers().items())


def test_infinite_loss_stops_with_a_sentence(model):
    with pytest.raises(ForgetError, match="finite loss, got NaN or infinity at step 1"):
        forget_by_gradient(
            model, [ZEBRA], [References(torch.full((1, 4, 4, 4), float("nan")))], GradientSettings(steps=2)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps from 1 to 10000, got 0"),
        ({"rank": 0}, "rank from 1"),
        ({"learning_rate": -1.0}, "learning_rate from 0"),
        ({"train": "everything"}, "train to be one of values"),
        ({"loss": "mine"}, "loss to be one of paper"),
        ({"optimiser": "magic"}, "optimiser to be one of AdamW"),
        ({"attention_weight": 0.0}, "a loss with a weight above 0"),
        ({"first_level": 0.6, "last_level": 0.5}, "noise levels 0 <= first_level < last_level <= 1"),
        ({"visual_weight": 1.0}, "pairs for the visual denoising loss"),
    ],
)
def test_bad_settings_are_refused(model, change, message):
    with pytest.raises(ForgetError, match=message):
        forget_by_gradient(model, [ZEBRA], LATENTS, GradientSettings(**change))


def test_accumulation_is_the_mean_of_its_draws(model):
    grads = {}
    for accumulation in (1, 3):
        trainer = Trainer(model, [ZEBRA], LATENTS, GradientSettings(accumulation=accumulation, preservation=0.0))
        for f in trainer.trained.values():
            f.up.data.normal_(generator=torch.Generator().manual_seed(1))
        if accumulation == 3:
            trainer.backward()
            grads[3] = [p.grad.clone() for p in trainer.parameters if p.grad is not None]
        else:
            parts = []
            for _ in range(3):
                trainer.backward()
                parts.append([p.grad.clone() for p in trainer.parameters if p.grad is not None])
            grads[1] = [sum(g) / 3 for g in zip(*parts)]
    for a, b in zip(grads[1], grads[3]):
        torch.testing.assert_close(a, b)


def test_a_lost_loss_keeps_the_last_good_state(model):
    settings = GradientSettings(steps=20, learning_rate=1e-2, drift_every=0)
    calm = model.denoise
    calls = []

    def bursts(x, sigma, prompts):
        calls.append(1)
        return calm(x, sigma, prompts) * (float("nan") if len(calls) > 8 else 1)

    model.denoise = bursts
    pairs = [ImagePairs(torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4), [0])]
    settings = GradientSettings(
        steps=20, learning_rate=1e-2, attention_weight=0.0, visual_weight=1.0, preservation=0.0, drift_every=0
    )
    patch = forget_by_gradient(model, [ZEBRA], LATENTS, settings, pairs=pairs)
    assert patch.figures["steps"] == 8 and patch.figures["stopped"] == "loss not finite"
    assert "not finite at step 9" in patch.figures["warnings"][0]
    assert all(torch.isfinite(f.up).all() for f in patch.factors.values())
    assert any(float(f.up.abs().max()) > 0 for f in patch.factors.values())


def test_drift_monitor_warns_and_stops(model):
    settings = GradientSettings(steps=300, learning_rate=5e-2, preservation=0.0, drift_warning=1e-4, drift_limit=1e-3)
    figures = forget_by_gradient(model, [ZEBRA], LATENTS, settings).figures
    assert figures["stopped"] == "drift limit" and figures["steps"] < 300
    assert figures["drift"][-1][1] > 1e-3 and "lower learning rate" in figures["warnings"][0]


def test_drift_is_zero_for_an_unmoved_model(model):
    trainer = Trainer(model, [ZEBRA], LATENTS, GradientSettings())
    assert trainer.drift() == 0


@pytest.mark.parametrize("optimiser", ["AdamW", "Adam", "RAdam", "Adafactor", "SGD"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_optimiser_and_schedule_trains(model, optimiser, schedule):
    settings = GradientSettings(steps=8, optimiser=optimiser, schedule=schedule, learning_rate=1e-2, preservation=0.0)
    patch = forget_by_gradient(model, [ZEBRA], LATENTS, settings)
    assert any(float(f.up.abs().max()) > 0 for f in patch.factors.values())


def test_several_concepts_are_all_drawn(model):
    dog = Concept(["dog"], "object", ["a photo of a {}"])
    trainer = Trainer(model, [ZEBRA, dog], [*LATENTS, *LATENTS], GradientSettings())
    drawn = {trainer.draw().prompt.text for _ in range(40)}
    assert drawn == {"a photo of a zebra", "a zebra in the park", "a photo of a dog"}


def test_an_inverted_concept_is_trained_on_through_its_columns(model):
    inverted = Concept([], "object", ["a photo of a {}"], embedding={"l": torch.randn(3, model.dim)})
    [prompt], [columns] = (lambda p: (p.encoded, p.columns))(concept_prompts(model, inverted))
    assert columns == [5, 6, 7, 8] and all(i < 0 for i in prompt.tokens["l"][0][5:8])


@pytest.mark.parametrize("train", ["keys and values", "attn2"])
def test_the_pass_ends_with_the_last_attention_that_counts(model, train):
    """Nothing behind the last layer's keys runs, and loss and gradients are those of a whole pass."""
    last = model.cross_attention()[-1].projections["to_out.0"]
    runs, found = [], []
    handle = last.register_forward_hook(lambda *_: runs.append(1))
    for checkpointing in (False, True):  # with checkpointing the pass is whole
        model.blocks = lambda on=checkpointing: [torch.nn.Identity()] if on else []
        trainer = Trainer(model, [ZEBRA], LATENTS, GradientSettings(train=train, checkpointing=checkpointing))
        draw = trainer.draw()
        runs.clear()
        with trainer.unet_pass(draw) as (predicted, columns):
            loss, _ = trainer.losses(draw, predicted, columns)
            loss.backward()
        found.append((float(loss), [p.grad.clone() for p in trainer.parameters if p.grad is not None], len(runs)))
    handle.remove()
    assert [f[2] for f in found] == [0, 1]
    assert found[0][0] == found[1][0] and len(found[0][1]) == len(found[1][1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1]))
