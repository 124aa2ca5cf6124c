"""Augmented images: their masks stay on the same things, sizes fit a VAE, seeds repeat."""

import itertools
import math

import pytest
import torch

from fmn_core.errors import ForgetError
from fmn_core.training.augmentation import AugmentSettings, augment, bucket_size


def painted(height, width, top, left, side, count=1):
    """Grey images with a red square, and masks of the square."""
    images, masks = torch.full((count, height, width, 3), 0.5), torch.zeros(count, height, width)
    images[:, top : top + side, left : left + side] = torch.tensor([1.0, 0.0, 0.0])
    masks[:, top : top + side, left : left + side] = 1
    return images, masks


def noise(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


SETTINGS = [
    AugmentSettings(copies=6, crop=0.4),
    AugmentSettings(copies=6, flip=True),
    AugmentSettings(copies=2, bucket=256),
    AugmentSettings(copies=2, bucket=64),
    AugmentSettings(copies=6, crop=0.6, flip=True, bucket=128),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", [(96, 160), (131, 77)])
def test_a_mask_stays_on_the_square_it_was_painted_for(settings, size):
    images, masks = painted(*size, size[0] // 3, size[1] // 2, 24, count=2)
    out, covers = augment(images, masks, settings, seed=3)
    assert covers is not None and covers.shape == out.shape[:3] and len(out) == 2 * settings.copies
    assert out.min() >= 0 and out.max() <= 1 and covers.min() >= 0 and covers.max() <= 1
    red = (out[..., 0] - out[..., 1]).clamp(0, 1)
    # filters differ at the rim of the square, by no more than a pixel's worth
    inside, outside = covers > 0.99, covers < 0.01
    assert inside.any() and outside.any()
    assert red[inside].min() > 0.8 and red[outside].max() < 0.2
    for r, m in zip(red, covers):
        assert abs(float(r.sum() - m.sum())) < 0.05 * float(m.sum()) + 1


def test_masks_are_resampled_with_the_images_to_the_pixel():
    ramp = (
        torch.linspace(0, 1, 90)[None, :, None, None].expand(1, -1, 70, 3) * 0.5 + torch.linspace(0, 0.5, 70)[:, None]
    )
    out, masks = augment(ramp, ramp[..., 0], AugmentSettings(copies=5, crop=0.5, flip=True), seed=1)
    torch.testing.assert_close(out[:, 3:-3, 3:-3, 0], masks[:, 3:-3, 3:-3], atol=1e-3, rtol=0)


def test_defaults_return_the_very_inputs():
    images, masks = noise(2, 21, 30, 3), noise(1, 21, 30)
    assert augment(images, masks, AugmentSettings(), 0)[0] is images
    assert augment(images, masks, AugmentSettings(), 0)[1] is masks


def test_the_first_copy_is_the_image_cropped_at_the_centre_to_whole_cells():
    images = noise(2, 21, 45, 3)
    out, masks = augment(images, None, AugmentSettings(copies=3, crop=0.5, flip=True), 0)
    assert out.shape == (6, 16, 40, 3) and masks is None
    assert torch.equal(out[:2], images[:, 2:18, 2:42])
    assert all(not torch.equal(out[i], out[i % 2]) for i in range(2, 6))


def test_a_bucket_resizes_and_crops_the_centre():
    images = torch.zeros(1, 300, 100, 3)
    images[:, 100:200] = 1
    size = bucket_size(300, 100, 256)
    out, _ = augment(images, None, AugmentSettings(bucket=256), 0)
    assert out.shape[1:3] == size == (384, 128)
    assert out[0, 140:244].min() > 0.99 and out[0, :120].max() < 0.01 and out[0, 264:].max() < 0.01
    wide = torch.linspace(0, 1, 200).expand(1, 100, 200)[..., None].repeat(1, 1, 1, 3)
    cropped, _ = augment(wide, None, AugmentSettings(bucket=64), 0)
    # 100 x 200 becomes 40 x 88 or the like: the middle stays in the middle
    assert abs(float(cropped.mean()) - 0.5) < 1e-3


def test_flips_mirror_about_half_of_the_copies_and_nothing_else():
    images = noise(1, 16, 24, 3)
    out, _ = augment(images, None, AugmentSettings(copies=41, flip=True), 5)
    mirrored = [torch.equal(o, images[0].flip(1)) for o in out]
    assert all(m or torch.equal(o, images[0]) for m, o in zip(mirrored, out))
    assert not mirrored[0] and 8 < sum(mirrored) < 32


def test_without_a_crop_all_copies_are_cut_from_the_centre():
    out, _ = augment(noise(1, 40, 90, 3), None, AugmentSettings(copies=12, flip=True, bucket=32), 0)
    assert all(torch.equal(o, out[0]) or torch.equal(o, out[0].flip(1)) for o in out)


def test_a_crop_removes_no_more_than_its_share_and_reaches_every_part():
    rows = torch.arange(64.0)[:, None, None].expand(64, 64, 3)[None] / 64
    out = torch.cat([augment(rows, None, AugmentSettings(copies=64, crop=0.25), seed)[0][1:] for seed in (2, 3, 4)])
    kept = (out[:, -1, 0, 0] - out[:, 0, 0, 0]) * 64 + 1
    assert 64 * 0.75 - 1.5 < kept.min() < 52 and kept.max() > 61
    first, last = out[:, 0, 0, 0] * 64, out[:, -1, 0, 0] * 64
    assert first.min() < 1 and last.max() > 62 and first.max() > 10 and last.min() < 53


def test_one_seed_gives_the_same_bytes_and_another_seed_others():
    images, masks = painted(50, 70, 10, 20, 12, count=3)
    settings = AugmentSettings(copies=4, crop=0.3, flip=True, bucket=64)
    one, two, other = (augment(images, masks, settings, seed) for seed in (7, 7, 8))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


def test_flipping_does_not_change_the_crops():
    images = noise(1, 40, 40, 3)
    plain, _ = augment(images, None, AugmentSettings(copies=9, crop=0.5), 1)
    flipped, _ = augment(images, None, AugmentSettings(copies=9, crop=0.5, flip=True), 1)
    same = [torch.equal(a, b) for a, b in zip(plain, flipped)]
    mirrored = [torch.equal(a.flip(1), b) for a, b in zip(plain, flipped)]
    assert all(s or m for s, m in zip(same, mirrored)) and any(mirrored)


def test_one_mask_serves_all_images_and_may_have_another_size():
    images, masks = painted(64, 64, 16, 32, 16, count=3)
    settings = AugmentSettings(copies=2, crop=0.2, flip=True)
    _, all_masks = augment(images, masks, settings, 4)
    _, one_mask = augment(images, masks[:1], settings, 4)
    assert torch.equal(all_masks, one_mask)
    _, small = augment(images, masks[:, ::4, ::4], settings, 4)
    assert (small.mean((1, 2)) - all_masks.mean((1, 2))).abs().max() < 0.01


def test_results_made_in_inference_mode_are_fit_for_autograd():
    with torch.inference_mode():
        out, masks = augment(noise(1, 20, 20, 3), noise(1, 20, 20), AugmentSettings(copies=2), 0)
    weight = torch.ones(1, requires_grad=True)
    ((out.mean() + masks.mean()) * weight * out.sum()).backward()
    assert weight.grad is not None and not out.is_inference() and not masks.is_inference()


@pytest.mark.parametrize("bucket", [8, 60, 128, 255, 256, 512, 640])
@pytest.mark.parametrize("image", [(512, 512), (100, 317), (900, 401), (64, 1000), (8, 9)])
def test_no_bucket_of_the_rules_is_nearer(image, bucket):
    step = 8 if bucket < 256 else 64
    height, width = bucket_size(*image, bucket)
    assert height % step == 0 == width % step and height * width <= bucket**2

    def distance(h, w):
        return abs(math.log(h / w) - math.log(image[0] / image[1]))

    sides = range(step, bucket**2 // step + 1, step)
    pairs = [(h, w) for h, w in itertools.product(sides, sides) if h * w <= bucket**2]
    sizes = [(h, w) for h, w in pairs if (h + step) * (w + step) > bucket**2]
    best = min(distance(*s) for s in sizes)
    assert distance(height, width) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(
    ("images", "masks", "settings", "message"),
    [
        (torch.zeros(0, 16, 16, 3), None, {}, "Expected RGB images"),
        (torch.zeros(1, 7, 16, 3), None, {}, r"at least 8 x 8 pixels, got \[1, 7, 16, 3\]"),
        (torch.zeros(1, 16, 16, 4), None, {}, "Expected RGB images"),
        (torch.zeros(16, 16, 3), None, {}, "Expected RGB images"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.uint8), None, {}, "of torch.uint8"),
        (torch.zeros(3, 16, 16, 3), torch.zeros(2, 16, 16), {}, r"one for each of 3 images, got \[2, 16, 16\]"),
        (torch.zeros(3, 16, 16, 3), torch.zeros(16, 16), {}, "Expected one mask"),
        (torch.zeros(1, 16, 16, 3), None, {"copies": 0}, "copies from 1"),
        (torch.zeros(1, 16, 16, 3), None, {"crop": 1.0}, "crop from 0 to 0.9"),
        (torch.zeros(1, 16, 16, 3), None, {"crop": float("nan")}, "crop from 0 to 0.9"),
        (torch.zeros(1, 16, 16, 3), None, {"bucket": 7}, "bucket of 0 or at least 8"),
        (torch.zeros(1, 16, 16, 3), None, {"bucket": -64}, "bucket from 0"),
    ],
)
def test_bad_input_is_refused(images, masks, settings, message):
    with pytest.raises(ForgetError, match=message):
        augment(images, masks, AugmentSettings(**settings), 0)
