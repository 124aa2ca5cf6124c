"""Thresholds and shapes of masks against brute force."""

import itertools
import math

import pytest
import torch

from fmn_core.attention.mask_shapes import box_mask, ellipse_mask, feather, grow, otsu_threshold


def brute_otsu(values: list[float]) -> float:
    """Variance between the classes for every cut between neighbours, by loops."""
    ordered, best, cut = sorted(values), -1.0, 0.0
    for low, high in itertools.pairwise(ordered):
        below, above = [v for v in values if v <= low], [v for v in values if v > low]
        if low == high or not above:
            continue
        means = sum(below) / len(below), sum(above) / len(above)
        variance = len(below) * len(above) * (means[0] - means[1]) ** 2
        if variance > best:
            best, cut = variance, (low + high) / 2
    return cut


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_the_best_of_all_cuts(seed):
    g = torch.Generator().manual_seed(seed)
    values = torch.cat([torch.randn(40, generator=g), 2 + 0.5 * torch.randn(15, generator=g)])
    rounded = (values * 4).round() / 4  # with repeats
    for x in (values, rounded):
        assert otsu_threshold(x) == pytest.approx(brute_otsu(x.double().tolist()), abs=1e-9)


def test_otsu_of_equal_values_is_none():
    assert otsu_threshold(torch.full((4, 4), 0.3)) is None


def brute_grow(mask, radius):
    out = torch.zeros_like(mask)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            out[y, x] = any(math.dist((y, x), point) <= radius for point in (tuple(p) for p in mask.nonzero().tolist()))
    return out


@pytest.mark.parametrize("radius", [1, 3, 30])
@pytest.mark.parametrize("size", [(12, 17), (1, 9)])
def test_grow_is_dilation_by_a_disc_and_shrink_its_opposite(radius, size):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(radius)) > 0.9
    assert torch.equal(grow(mask, radius), brute_grow(mask, radius))
    assert torch.equal(grow(mask, -radius), ~brute_grow(~mask, radius))


def test_shrinking_does_not_eat_from_the_border():
    assert grow(torch.ones(5, 5, dtype=torch.bool), -2).all()


def brute_feather(mask, width):
    """The Gaussian's weighted mean by loops; beyond the picture stands the nearest pixel."""
    reach = math.ceil(1.5 * width)
    weights = {d: math.exp(-2 * (d / width) ** 2) for d in range(-reach, reach + 1)}
    total, (height, wide) = sum(weights.values()), mask.shape
    pixels = mask.tolist()

    def blur(value, position, length):
        return sum(w * value(min(max(position + d, 0), length - 1)) for d, w in weights.items()) / total

    rows = [[blur(lambda k, y=y: pixels[y][k], x, wide) for x in range(wide)] for y in range(height)]
    return torch.tensor(
        [[blur(lambda k, x=x: rows[k][x], y, height) for x in range(wide)] for y in range(height)], dtype=torch.float64
    )


@pytest.mark.parametrize("width", [0.5, 1.0, 4.9, 30.0])
@pytest.mark.parametrize("kind", ["binary", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_feather_is_a_gaussian_that_repeats_the_border(width, kind, dtype):
    mask = torch.rand(12, 19, generator=torch.Generator().manual_seed(1)).to(dtype)
    mask = (mask > 0.7).to(dtype) if kind == "binary" else mask
    feathered = feather(mask, width)
    assert feathered.dtype == dtype
    torch.testing.assert_close(
        feathered.double(), brute_feather(mask, width), atol=1e-14 + 2 * torch.finfo(dtype).eps, rtol=0
    )
    assert feather(mask, 0.0) is mask


def test_box_covers_the_pixels_whose_centres_it_holds():
    mask = box_mask((6, 8), (1.0, 2.0, 4.0, 5.4))
    assert mask.sum() == 9 and mask[2:5, 1:4].all()


def test_ellipse_is_full_inside_soft_at_the_rim_and_empty_outside():
    mask = ellipse_mask((40, 60), (10.0, 10.0, 50.0, 30.0), soft=0.2)
    for y in range(40):
        for x in range(60):
            r = math.hypot((x + 0.5 - 30) / 20, (y + 0.5 - 20) / 10)
            inward = min(1.0, max(0.0, (1 - r) / 0.2))
            assert float(mask[y, x]) == pytest.approx(0.5 - 0.5 * math.cos(math.pi * inward), abs=1e-6)
    assert mask[20, 30] == 1 and mask[10, 10] == 0 and ((mask > 0.1) & (mask < 0.9)).any()


def test_boxes_beyond_the_picture_are_cut_off():
    assert box_mask((4, 4), (-5.0, -5.0, 2.0, 2.0)).sum() == 4
    assert ellipse_mask((4, 4), (10.0, 10.0, 12.0, 12.0)).sum() == 0
