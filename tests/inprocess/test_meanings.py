"""The diffusion classifier against the judge, on the real miniature."""

import pytest
import torch

from fmn_core.concepts.concept import Concept
from fmn_core.scores.meanings import dominant_share, sample_word
from tools import comfy_host


@pytest.fixture(scope="module")
def world():
    from bench.world import World

    comfy_host.load_pack()
    return World()


def test_the_model_tells_meanings_apart_as_the_judge_does(world):
    adapter, concept = world.adapter(), Concept
    templates, size = ["a picture of a {} in noto style", "a {} in fluent style"], (4, 16, 16)
    shares = {}
    with torch.inference_mode(False), torch.no_grad():
        world.host.load(world.model)
        for name in ("red apple", "green apple"):
            latents = sample_word(adapter, name, templates, size, 4, seed=60)
            seen = world.seen(adapter.decode_latents(world.vae, latents))[0]
            assert seen == [name] * 4
            red = concept(["red apple"], "object", templates)
            shares[name] = dominant_share(adapter, latents, red, ["green apple"], templates)
    assert shares["red apple"] >= 0.75 and shares["green apple"] <= 0.25
