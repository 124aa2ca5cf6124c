import math

import pytest
import torch
from toy_model import ToyModel

from fmn_core.attention.hooks import attention_probe, checkpointed, scaled_columns
from fmn_core.attention.zeroing import attention_probabilities
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.model.sampler import sample, sample_seeds, schedule, seeded_noise
from fmn_core.training.concept_prompts import concept_prompts
from fmn_core.training.forget import forget_by_gradient
from fmn_core.training.losses import Preservation, attention_loss, visual_loss, visual_scale
from fmn_core.training.references import ImagePairs, References, make_pairs
from fmn_core.training.settings import GradientSettings, auto_learning_rate
from fmn_core.training.trainable import FullDelta, LowRank, injected
from fmn_core.training.trainer import Trainer, trained_layers

ZEBRA = Concept(["zebra"], "object", ["a photo of a {}", "a {} in the park"])
LATENTS = [References(torch.zeros(1, 4, 4, 4))]


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
    from fmn_core.patch.patch import Factors

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
    assert float(Preservation(model, factors, rows)().detach()) == 0
    for f in factors.values():
        f.up.data.normal_(generator=torch.Generator().manual_seed(5))
    parts = []
    for name, factor in factors.items():
        w = layers[name].weight
        parts.append(((rows @ (factor.up @ factor.down).T).norm() / (rows @ w.T).norm()) ** 2)
    assert float(Preservation(model, factors, rows)()) == pytest.approx(float(torch.stack(parts).mean()), rel=1e-4)


def test_training_takes_attention_away(model):
    settings = GradientSettings(steps=60, learning_rate=2e-2, rank=4, preservation=0.0)
    patch = forget_by_gradient(model, [ZEBRA], LATENTS, settings)
    mass = patch.figures["mass"]
    assert sum(mass[-5:]) < 0.5 * sum(mass[:5])


def test_factors_start_at_the_model(model):
    trainer = Trainer(model, [ZEBRA], LATENTS, GradientSettings())
    assert all(float(f.delta().abs().max()) == 0 for f in trainer.patch_factors()[0].values())


@pytest.mark.parametrize(("train", "count"), [("values", 2), ("keys and values", 4), ("attn2", 8), ("whole UNet", 8)])
def test_what_is_trained(model, train, count):
    assert len(trained_layers(model, train)) == count


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


# --- masks, pairs and the visual denoising loss ---


def test_a_mask_weighs_pixels_of_the_attention(model):
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    seen = {}
    for name, masks in (("masked", mask), ("plain", None)):
        trainer = Trainer(model, [ZEBRA], [References(torch.zeros(1, 4, 4, 4), masks)], GradientSettings())
        with trainer.unet_pass(trainer.draw()) as (_, columns):
            seen[name] = columns
    grid = torch.tensor([0.0, 0, 1, 1]).repeat(4)[None, None, :, None]
    for masked, plain in zip(seen["masked"], seen["plain"]):
        torch.testing.assert_close(masked, plain * grid)


def test_masks_must_be_as_many_as_images():
    with pytest.raises(ForgetError, match="one mask or one for each of 3 images, got 2"):
        References(torch.zeros(3, 4, 4, 4), torch.ones(2, 8, 8))


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


def test_visual_loss_against_its_formula():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 3, 3, generator=g), torch.randn(2, 4, 3, 3, generator=g)
    sigma = torch.tensor([0.1, 4.0])
    per_image = [float(((a[i].double() - b[i].double()) ** 2).sum() / 36) for i in range(2)]
    assert float(visual_loss(a, b, sigma, "uniform")) == pytest.approx(sum(per_image) / 2, rel=1e-5)
    weighted = per_image[0] * 1.0 + per_image[1] * (1 / 16) / 5
    assert float(visual_loss(a, b, sigma, "min-SNR")) == pytest.approx(weighted / 2, rel=1e-5)


def test_sampler_reaches_the_data_of_a_known_denoiser(model):
    """With a denoiser that always answers one picture, every schedule ends there."""
    picture = torch.randn(1, 4, 4, 4)
    model.denoise = lambda x, sigma, prompts: picture.expand(len(x), -1, -1, -1)
    prompt, empty = model.encode(["a zebra", ""])
    out = sample(model, [prompt], empty, seeded_noise((4, 4, 4), 0)[None], 5, 3.0)
    torch.testing.assert_close(out, picture)
    levels = schedule(model.sigmas(), 5)
    assert levels[0] == model.sigmas()[-1] and levels[-1] == 0 and bool((levels.diff() < 0).all())


@pytest.mark.parametrize("weighting", ["uniform", "min-SNR"])
def test_visual_scale_is_the_mean_loss_of_predicting_what_was_kept(weighting):
    g = torch.Generator().manual_seed(0)
    kept, zeroed = torch.randn(3, 4, 2, 2, generator=g), torch.randn(3, 4, 2, 2, generator=g)
    sigmas = torch.tensor([0.1, 0.5, 2.0, 50.0])
    losses = [float(visual_loss(kept, zeroed, s.expand(3), weighting)) for s in sigmas]
    assert visual_scale(kept, zeroed, sigmas, weighting) == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_preservation_of_visual_training_does_not_hang_on_the_first_draw(model):
    pairs = [ImagePairs(torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4), [0])]
    scales = []
    for seed in range(4):
        settings = GradientSettings(attention_weight=0.0, visual_weight=2.0, seed=seed, drift_every=0)
        trainer = Trainer(model, [ZEBRA], LATENTS, settings, pairs)
        trainer.backward()
        scales.append(trainer.initial_losses)
    wanted = 2 * visual_scale(pairs[0].kept, pairs[0].zeroed, model.sigmas(), "min-SNR")
    assert scales == [{"visual": pytest.approx(wanted)}] * 4


def test_a_seed_gives_its_picture_in_any_batch(model):
    prompts = model.encode([f"a zebra {n}" for n in range(6)])
    together = sample_seeds(model, prompts, (4, 4, 4), seed=9, steps=3)
    for k, prompt in enumerate(prompts):
        torch.testing.assert_close(together[k : k + 1], sample_seeds(model, [prompt], (4, 4, 4), seed=9 + k, steps=3))


def test_pairs_share_seed_and_prompt_and_differ_by_the_concepts_attention(model):
    prompts = concept_prompts(model, ZEBRA)
    pairs = make_pairs(model, prompts.encoded, prompts.columns, (4, 4, 4), count=3, steps=3)
    again = make_pairs(model, prompts.encoded, prompts.columns, (4, 4, 4), count=3, steps=3)
    none = make_pairs(model, prompts.encoded, [[] for _ in prompts.columns], (4, 4, 4), count=3, steps=3)
    assert torch.equal(pairs.kept, again.kept) and torch.equal(pairs.zeroed, again.zeroed)
    assert torch.equal(none.kept, none.zeroed) and torch.equal(none.kept, pairs.kept)
    assert ((pairs.kept - pairs.zeroed) ** 2).mean() > 1e-6


def test_visual_training_approaches_the_zeroed_prediction(model):
    prompts = concept_prompts(model, ZEBRA)
    pairs = [make_pairs(model, prompts.encoded, prompts.columns, (4, 4, 4), count=2, steps=4)]
    settings = GradientSettings(
        attention_weight=0.0,
        visual_weight=1.0,
        visual_weighting="uniform",
        steps=150,
        learning_rate=2e-2,
        preservation=0.0,
        first_level=0.5,
    )
    trainer = Trainer(model, [ZEBRA], LATENTS, settings, pairs)
    draws = [trainer.draw() for _ in range(20)]

    def loss(draw):
        with trainer.unet_pass(draw) as (predicted, columns):
            return float(trainer.losses(draw, predicted, columns)[0].detach())

    def mean_loss():
        return sum(map(loss, draws)) / len(draws)

    before = mean_loss()
    for number in range(settings.steps):
        trainer.step(number)
    assert mean_loss() < 0.7 * before


def test_pairs_replace_the_references_in_every_draw(model):
    pairs = [ImagePairs(torch.full((1, 4, 4, 4), 7.0), torch.full((1, 4, 4, 4), 3.0), [1])]
    trainer = Trainer(model, [ZEBRA], LATENTS, GradientSettings(visual_weight=1.0), pairs)
    draw = trainer.draw()
    assert draw.prompt.text == trainer.prompts[0].encoded[1].text and bool((draw.zeroed == 3).all())


# --- training that takes care ---


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
