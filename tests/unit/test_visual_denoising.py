"""Visual denoising: the sampler, the pairs that it makes, and a training that approaches them."""

import pytest
import torch
from toy_concepts import LATENTS, ZEBRA

from fmn_core.model.sampler import sample, sample_seeds, schedule, seeded_noise
from fmn_core.training.concept_prompts import concept_prompts
from fmn_core.training.losses import visual_scale
from fmn_core.training.references import ImagePairs, make_pairs
from fmn_core.training.settings import GradientSettings
from fmn_core.training.trainer import Trainer


def test_sampler_reaches_the_data_of_a_known_denoiser(model):
    """With a denoiser that always answers one picture, every schedule ends there."""
    picture = torch.randn(1, 4, 4, 4)
    model.denoise = lambda x, sigma, prompts: picture.expand(len(x), -1, -1, -1)
    prompt, empty = model.encode(["a zebra", ""])
    out = sample(model, [prompt], empty, seeded_noise((4, 4, 4), 0)[None], 5, 3.0)
    torch.testing.assert_close(out, picture)
    levels = schedule(model.sigmas(), 5)
    assert levels[0] == model.sigmas()[-1] and levels[-1] == 0 and bool((levels.diff() < 0).all())


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
