import pytest
import torch
from toy_model import ToyModel

from fmn_core.attention.hooks import attention_probe
from fmn_core.attention.maps import attention_maps, to_grid
from fmn_core.model.sampler import schedule


def test_maps_are_the_mean_of_what_every_layer_attends_to():
    """Against probabilities collected one by one, in the second half of the same steps."""
    model = ToyModel()
    [prompt] = model.encode(["a photo of a zebra"])
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    maps = attention_maps(model, prompt, noise, 4)
    sigmas, seen = schedule(model.sigmas(), 4), []
    x = noise * sigmas[0]
    with attention_probe(model.cross_attention(), lambda layer, p: seen.append(p)):
        for i in range(4):
            x0 = model.denoise(x, sigmas[i].reshape(1), [prompt])
            x = x0 + (x - x0) * (sigmas[i + 1] / sigmas[i])
    last = seen[len(seen) // 2 :]
    masses = torch.stack([p[0].mean((0, 1)) for p in last]).mean(0)
    torch.testing.assert_close(maps.masses, masses.float(), atol=1e-6, rtol=1e-5)
    assert float(maps.masses.sum()) == pytest.approx(1.0, abs=1e-4)
    heats = torch.stack([torch.stack([to_grid(p[0].mean(0)[:, t], (4, 4)) for p in last]).mean(0) for t in range(77)])
    torch.testing.assert_close(maps.heats, heats, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps.x0, x0.float())


def test_a_grid_of_several_tokens_is_that_of_each():
    heat = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    found = to_grid(heat, (4, 6))
    assert found.shape == (3, 4, 6)
    for row, one in zip(found, heat):
        torch.testing.assert_close(row, to_grid(one, (4, 6)))
