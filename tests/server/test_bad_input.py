"""What bad input gets: one clear sentence in the node, nothing written, nothing changed."""

import pickle
import threading

import pytest
import torch
from prompts import ZEBRA, miniature, pictures, sampled, train, uncached
from safetensors.torch import load_file, save_file

from bench.comfy_server import NodeError
from fmn_core.patch import Factors, ForgetPatch, save_patch

BAD_TRAINING = {
    "empty phrase": ({"phrase": "  "}, "empty text"),
    "phrase longer than the context": ({"phrase": "word " * 90}, "at most 75 tokens, got 90"),
    "phrase not in the prompt": (
        {"templates": "a photo of {}ish"},
        "'zebra' was not found in the prompt 'a photo of zebraish'",
    ),
    "template without a place": ({"templates": "a photo"}, "Expected one {} for the phrase"),
    "no steps": ({"method": "attention re-steering", "steps": 0}, "steps of at least 1, got 0"),
    "closed form of everything": ({"train": "whole UNet"}, "closed form to train values"),
    "file name with a folder": ({"file_name": "../forget"}, "plain file name"),
    "file name with a backslash": ({"file_name": "a\\b"}, "plain file name"),
    "file name with a reserved character": ({"file_name": "what?"}, "plain file name"),
    "file name that is a device": ({"file_name": "con"}, "plain file name"),
    "hidden file": ({"file_name": ".hidden"}, "plain file name"),
    "learning rate far too high": (
        {
            "method": "attention re-steering",
            "learning_rate": 1.0,
            "steps": 60,
            "train": "whole UNet",
            "preservation": 0.0,
        },
        "finite",
    ),
}


@pytest.fixture(scope="module")
def picture_before(server):
    return pictures(server, server.run(miniature() | sampled("a", ["mini", 0], ZEBRA)), "a")


def same_picture_now(server, wanted) -> bool:
    """The cached MODEL, which the failed node had in hands, still draws what it drew."""
    prompt = uncached(sampled("a", ["mini", 0], ZEBRA)) | miniature()
    outputs = server.run(prompt)
    name = next(k for k, n in prompt.items() if n["class_type"] == "PreviewImage")
    return torch.equal(pictures(server, outputs, name), wanted)


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_training(server, patches, picture_before, case):
    changes, message = BAD_TRAINING[case]
    with pytest.raises(NodeError) as caught:
        server.run(train(**changes))
    text = str(caught.value)
    assert message in text and "Traceback" not in text and "\n" not in text
    assert caught.value.kind == "validation" or caught.value.kind.endswith("ForgetError")
    assert list(patches.iterdir()) == []
    assert same_picture_now(server, picture_before)


def test_images_without_a_vae(server, patches):
    prompt = train(method="attention re-steering", images=["ref.decode", 0]) | sampled("ref", ["mini", 0], ZEBRA)
    with pytest.raises(NodeError, match="Expected a VAE"):
        server.run(prompt)


def test_no_clip(server):
    """A checkpoint without a text encoder gives CLIP = None; here the graph simply lacks the link."""
    prompt = train()
    del prompt["train"]["inputs"]["clip"]
    with pytest.raises(NodeError) as caught:
        server.run(prompt)
    assert caught.value.kind == "validation"


def test_map_of_a_phrase_that_is_not_in_the_prompt(server):
    prompt = miniature()
    prompt["map"] = {
        "class_type": "FMN_ConceptAttentionMap",
        "inputs": {
            "model": ["mini", 0],
            "clip": ["mini", 1],
            "prompt": "a horse",
            "phrase": "zebra",
            "end_token": "none",
            "width": 128,
            "height": 128,
            "steps": 1,
            "seed": 1,
        },
    }
    prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["map", 0]}}
    with pytest.raises(NodeError, match="'zebra' was not found in the prompt 'a horse'"):
        server.run(prompt)


def apply(file: str) -> dict:
    prompt = miniature()
    prompt["apply"] = {
        "class_type": "FMN_ApplyForgetPatch",
        "inputs": {"model": ["mini", 0], "patch_file": file, "strength": 1.0},
    }
    return prompt | {"show": {"class_type": "PreviewAny", "inputs": {"source": ["apply", 1]}}}


def write_good(path):
    patch = ForgetPatch(
        {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v": Factors(
                torch.ones(64, 2), torch.ones(2, 96), 2.0
            )
        },
        [],
        {},
        {},
    )
    save_patch(patch, path)


def other_architecture(path):
    patch = ForgetPatch(
        {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v": Factors(
                torch.ones(320, 2), torch.ones(2, 768), 2.0
            )
        },
        [],
        {"architecture": "stable-diffusion-v1"},
        {},
    )
    save_patch(patch, path)


def other_layers(path):
    save_patch(
        ForgetPatch(
            {"lora_unet_joint_blocks_0_attn_qkv": Factors(torch.ones(4, 2), torch.ones(2, 4), 2.0)}, [], {}, {}
        ),
        path,
    )


def nan_factors(path):
    write_good(path)
    tensors = load_file(path)
    tensors[next(k for k in tensors if k.endswith("up.weight"))][0, 0] = float("nan")
    save_file(tensors, path)


def truncated(path):
    write_good(path)
    path.write_bytes(path.read_bytes()[:-10])


BAD_FILES = {
    "another architecture": (other_architecture, "layers of other shapes (stable-diffusion-v1)"),
    "none of the layers": (other_layers, "no layer of that name"),
    "NaN": (nan_factors, "NaN or infinity"),
    "truncated": (truncated, "corrupt, cut short"),
    "not safetensors": (lambda p: p.write_text("hello"), "corrupt, cut short or of another format"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=2)), "got a pickle"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_patch_files(server, patches, picture_before, case):
    make, message = BAD_FILES[case]
    make(patches / "bad.safetensors")
    with pytest.raises(NodeError) as caught:
        server.run(apply("forget_me_not/bad.safetensors"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert same_picture_now(server, picture_before)


@pytest.mark.parametrize("name", ["forget_me_not/nothing.safetensors", "../../../secret.safetensors"])
def test_files_that_are_not_in_the_list(server, patches, name):
    with pytest.raises(NodeError, match="Expected a patch from the list"):
        server.run(apply(name))


def test_neither_file_nor_patch(server):
    with pytest.raises(NodeError, match="got neither a file nor a connection"):
        server.run(apply("(from the forget_patch input)"))


def test_interrupt_leaves_nothing_behind(server, patches, picture_before):
    started = threading.Event()

    def on_event(kind, data):
        if kind == "progress" and data.get("value", 0) >= 2 and not started.is_set():
            started.set()
            threading.Thread(target=server.interrupt).start()

    with pytest.raises(NodeError) as caught:
        server.run(train(method="attention re-steering", steps=10000), on_event, timeout=120)
    assert caught.value.kind == "interrupted" and started.is_set()
    assert list(patches.iterdir()) == []
    assert same_picture_now(server, picture_before)
