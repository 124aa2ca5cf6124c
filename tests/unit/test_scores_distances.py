"""Distances of features against closed forms and brute force in float64."""

import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fmn_core.errors import ForgetError
from fmn_core.scores.distances import cmmd, distance, drift, frechet, kernel
from tools import comfy_host

# torchmetrics imports torchvision, which a CPU build of torch may need the host's help for.
comfy_host.activate()


def features(count, shift=0.0, seed=0, width=6):
    made = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made + shift


def test_frechet_against_the_square_root_of_matrices():
    a, b = features(60).numpy(), features(50, 0.4, 1).numpy() * 1.3
    s, t = np.cov(a.T), np.cov(b.T)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(wanted, rel=1e-6)


def test_frechet_of_a_shift_is_its_square():
    a = features(40)
    assert frechet(a, a + 0.5) == pytest.approx(6 * 0.25, rel=1e-5)
    assert frechet(a, a.flip(0)) == pytest.approx(0, abs=1e-6)


def test_kernel_against_brute_force():
    a, b = features(9).numpy(), features(9, 0.5, 1).numpy()

    def k(x, y):
        return (x @ y / 6 + 1) ** 3

    within = sum(k(s[i], s[j]) for s in (a, b) for i in range(9) for j in range(9) if i != j) / (9 * 8)
    between = sum(k(x, y) for x in a for y in b) / 81
    assert kernel(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(within - 2 * between, rel=1e-9)


def test_kernel_of_unequal_batches_and_the_global_generator():
    a, b, before = features(30), features(20, 0.5, 1), torch.get_rng_state()
    found = kernel(a, b)
    assert found == kernel(a, b) and torch.equal(torch.get_rng_state(), before)
    within = [((s @ s.T / 6 + 1) ** 3).fill_diagonal_(0).sum() / (len(s) * (len(s) - 1)) for s in (a, b)]
    wanted = float(sum(within) - 2 * ((a @ b.T / 6 + 1) ** 3).mean())
    assert found == pytest.approx(wanted, abs=0.1)


def test_cmmd_against_brute_force():
    a, b = (torch.nn.functional.normalize(features(7, shift, seed), dim=1) for shift, seed in ((0, 0), (0.7, 1)))

    def mean(xs, ys):
        return np.mean([np.exp(-(((x - y) ** 2).sum().item()) / 200) for x in xs for y in ys])

    assert cmmd(a, b) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-9)
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9) and cmmd(a, b) == pytest.approx(cmmd(b, a))


@pytest.mark.parametrize("measure", ["FID", "KID", "CMMD"])
def test_pictures_further_away_are_further_away(measure):
    def colours(images):
        return images.mean((1, 2))

    g = torch.Generator().manual_seed(0)
    base = torch.rand(24, 4, 4, 3, generator=g)
    near, far = (distance(measure, colours, base, (base.flip(0) * (1 - s) + s)) for s in (0.1, 0.6))
    assert near < far


def test_drift_is_the_mean_squared_error():
    a, b = torch.rand(2, 4, 4, 3), torch.rand(2, 4, 4, 3)
    assert drift(a, b) == pytest.approx(((a - b) ** 2).mean().item()) == pytest.approx(distance("drift", None, a, b))


@pytest.mark.parametrize(
    ("measure", "model", "counts", "message"),
    [
        ("LPIPS", torch.clone, (2, 2), "a measure of FID, KID"),
        ("FID", None, (2, 2), "an image-text model for FID"),
        ("KID", torch.clone, (1, 2), "two pictures or more"),
        ("drift", None, (1, 2), "as many pictures of one size"),
        ("drift", None, (0, 0), "as many pictures of one size"),
    ],
)
def test_distance_refuses(measure, model, counts, message):
    with pytest.raises(ForgetError, match=message):
        distance(measure, model, *(torch.rand(n, 4, 4, 3) for n in counts))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ForgetError, match="pip install"):
        frechet(features(3), features(3))
