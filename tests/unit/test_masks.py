"""Masks of image size on the grids of cross-attention layers."""

import pytest
import torch

from fmn_core.attention.masks import LayerMasks, check_mask, layer_grid, layer_mask, mask_to_grid
from fmn_core.errors import ForgetError


def means(mask, rows, columns):
    """Area interpolation by loops: a cell is the mean of every pixel that it touches."""
    height, width = mask.shape
    out = torch.zeros(rows, columns, dtype=torch.float64)
    for r in range(rows):
        for c in range(columns):
            cells = [
                float(mask[y, x])
                for y in range(r * height // rows, -(-(r + 1) * height // rows))
                for x in range(c * width // columns, -(-(c + 1) * width // columns))
            ]
            out[r, c] = sum(cells) / len(cells)
    return out.flatten()


@pytest.mark.parametrize(
    ("size", "latent", "grid"),
    [
        ((128, 128), (16, 16), (4, 4)),
        ((104, 152), (13, 19), (7, 10)),
        ((50, 33), (16, 24), (16, 24)),
        ((9, 8), (16, 16), (16, 16)),
    ],
)
def test_area_interpolation_to_the_layers_grid(size, latent, grid):
    mask = torch.rand(*size, generator=torch.Generator().manual_seed(0))
    ours = layer_mask(mask, grid[0] * grid[1], *latent)
    assert ours.shape == (1, grid[0] * grid[1])
    torch.testing.assert_close(ours[0].double(), means(mask, *grid), atol=1e-6, rtol=0)


def test_masks_of_a_batch_stay_apart():
    mask = torch.stack([torch.zeros(16, 16), torch.ones(16, 16)])
    assert layer_mask(mask, 4, 4, 4).tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert mask_to_grid(mask, (1, 1)).tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("pixels", "latent", "grid"),
    [
        (4096, (64, 64), (64, 64)),
        (64, (64, 64), (8, 8)),
        (35, (13, 19), None),
        (70, (13, 19), (7, 10)),
        (1, (3, 5), (1, 1)),
    ],
)
def test_grids_round_odd_sides_up(pixels, latent, grid):
    if grid is None:
        with pytest.raises(ForgetError, match="got one of 35 pixels"):
            layer_grid(pixels, *latent)
    else:
        assert layer_grid(pixels, *latent) == grid


def test_values_outside_are_clamped_and_the_mask_is_not_changed():
    mask = torch.full((8, 8), 2.0)
    mask[0] = -1
    assert check_mask(mask).unique().tolist() == [0, 1]
    assert mask.max() == 2


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 64, 64), "zeros only"),
        (torch.ones(64, 7), "at least 8x8 pixels, got 7x64"),
        (torch.ones(1, 1, 8, 8), r"got \(1, 1, 8, 8\)"),
        (torch.ones(0, 8, 8), r"got \(0, 8, 8\)"),
        (torch.full((8, 8), float("inf")), "not numbers"),
        ("mask", "got str"),
    ],
)
def test_bad_masks_are_refused(mask, message):
    with pytest.raises(ForgetError, match=message):
        check_mask(mask)


def test_the_mask_of_a_layer_is_made_once_for_each_resolution():
    mask = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    masks = LayerMasks(mask, 8, 8, "cpu")
    for pixels in (64, 16, 4):
        assert torch.equal(masks(pixels), layer_mask(mask, pixels, 8, 8))
        assert masks(pixels) is masks(pixels)
    with pytest.raises(ForgetError, match="got one of 35 pixels"):
        masks(35)
