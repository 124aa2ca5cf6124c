"""From attention in a picture to a mask, against loops in float64."""

import pytest
import torch
from toy_model import ToyModel

from fmn_core.attention.mask_from_attention import (
    MaskSettings,
    mask_from_heat,
    mean_heat,
    noise_levels,
    picture_attention,
    to_pixels,
)
from fmn_core.errors import ForgetError

LEVELS = torch.tensor([0.5, 2.0])


@pytest.fixture
def toy():
    return ToyModel()


@pytest.fixture
def latent():
    return torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(7))


def test_noise_levels_are_even_in_timesteps_and_end_at_the_highest():
    sigmas = torch.arange(101.0)
    assert noise_levels(sigmas, 4, 0.4).tolist() == [10, 20, 30, 40]
    assert noise_levels(sigmas, 1, 1.0).tolist() == [100]


def first_layer_heat(toy, prompt, columns, latent, seed):
    """Attention of the toy's first layer, whose pixels nothing has changed yet, by loops over heads and pixels."""
    layer, generator, maps = toy.layers[0], torch.Generator().manual_seed(seed), []
    for sigma in LEVELS.tolist():
        x = (latent + sigma * torch.randn(latent.shape, generator=generator)) / (1 + sigma**2) ** 0.5
        q = layer.projections["to_q"](x[0].flatten(1).T).double()
        k = layer.projections["to_k"](prompt.context).double()
        width, heat = q.shape[1] // layer.heads, torch.zeros(len(q), dtype=torch.float64)
        for h in range(layer.heads):
            part = slice(h * width, (h + 1) * width)
            for p in range(len(q)):
                weights = torch.exp(k[:, part] @ q[p, part] / width**0.5)
                heat[p] += sum(weights[c] for c in columns) / weights.sum() / layer.heads
        maps.append((heat / heat.mean()).view(4, 6))
    return sum(maps) / len(maps)


def test_attention_of_a_picture_is_the_mean_over_heads_and_noise_levels(toy, latent):
    prompt, columns = toy.encode(["a photo of a zebra"])[0], [4, 5]
    with torch.no_grad():
        got = picture_attention(toy, prompt, columns, latent, LEVELS, layers="0", seed=3)
        wanted = first_layer_heat(toy, prompt, columns, latent, seed=3)
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)


def test_every_level_is_one_step_and_the_seed_decides_the_noise(toy, latent):
    prompt, steps = toy.encode(["a zebra"])[0], []
    with torch.no_grad():
        one, same, other = (
            picture_attention(toy, prompt, [2], latent, LEVELS, "all", seed, lambda: steps.append(1))
            for seed in (1, 1, 2)
        )
    assert len(steps) == 3 * len(LEVELS) and torch.equal(one, same) and not torch.equal(one, other)


def test_layers_that_the_model_lacks_are_refused(toy, latent):
    with pytest.raises(ForgetError, match="layer numbers from 0 to 1"):
        picture_attention(toy, toy.encode(["a zebra"])[0], [2], latent, LEVELS, layers="up")


def test_layers_of_other_grids_count_alike():
    """Each map is spread over the area of its cells, bilinearly, and divided by its mean first."""
    g = torch.Generator().manual_seed(0)
    fine, coarse = torch.rand(16, generator=g), 1000 * torch.rand(4, generator=g)
    got = mean_heat([fine, coarse], torch.Size((4, 4)))
    small, wanted = (coarse / coarse.mean()).view(2, 2).double(), (fine / fine.mean()).view(4, 4).double().clone()
    for y in range(4):
        for x in range(4):
            v, u = (min(max((n + 0.5) / 2 - 0.5, 0.0), 1.0) for n in (y, x))
            rows = [small[r, 0] * (1 - u) + small[r, 1] * u for r in (0, 1)]
            wanted[y, x] = (wanted[y, x] + rows[0] * (1 - v) + rows[1] * v) / 2
    torch.testing.assert_close(got.double(), wanted, atol=1e-6, rtol=0)


def test_attention_that_is_not_finite_is_refused():
    with pytest.raises(ForgetError, match="got NaN or infinity"):
        mean_heat([torch.tensor([1.0, float("nan")])], torch.Size((1, 2)))


def test_pixels_beyond_the_picture_are_cut_off_and_cells_stay_in_place():
    heat = torch.zeros(3, 4)
    heat[1, 2] = 1
    pixels = to_pixels(heat, (19, 30))
    assert pixels.shape == (19, 30) and pixels[8:16, 16:24].min() >= 0.25 and pixels[:4].max() == 0
    assert pixels[11, 19] == pixels.max() and pixels[12, 20] == pixels.max()


HEAT = torch.tensor([[0.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, 10.0]])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (MaskSettings(), [0, 0, 0, 1]),
        (MaskSettings(threshold=0.15), [0, 0, 1, 1]),
        (MaskSettings(threshold=0.15, invert=True), [1, 1, 0, 0]),
        (MaskSettings(grow=1), [0, 0, 1, 1]),
        (MaskSettings(threshold=0.05, grow=-1), [0, 0, 1, 1]),
    ],
)
def test_heat_is_cut_at_a_share_of_its_range_then_grown_then_inverted(settings, wanted):
    assert mask_from_heat(HEAT * 3 + 5, settings).tolist() == [wanted, wanted]


def test_feathered_masks_stay_between_0_and_1():
    mask = mask_from_heat(HEAT, MaskSettings(feather=2.0, invert=True))
    assert mask.min() >= 0 and mask.max() <= 1 and ((mask > 0.1) & (mask < 0.9)).any()


@pytest.mark.parametrize("settings", [MaskSettings(threshold=1.0), MaskSettings(grow=-4)])
def test_an_empty_mask_is_refused(settings):
    with pytest.raises(ForgetError, match="Lower the threshold, or shrink the mask less"):
        mask_from_heat(HEAT, settings)


def test_heat_without_contrast_is_refused():
    with pytest.raises(ForgetError, match="got the same everywhere"):
        mask_from_heat(torch.full((4, 4), 0.2), MaskSettings())
