"""Patch files that cannot be applied: one clear sentence in the node, and the model draws what it drew."""

import pickle

import pytest
import torch
from prompts import apply, miniature, same_picture_now
from safetensors.torch import load_file, save_file

from fmn_core.patch.file import save_patch
from fmn_core.patch.patch import Factors, ForgetPatch
from tools.comfy_server import NodeError


def applied(file: str) -> dict:
    prompt = miniature() | apply(file)
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


def surrogate_in_its_base(path):
    """The error quotes the base: a text that the host's logger cannot encode would end its worker, and all later prompts hang."""
    other_architecture(path)
    said = {"fmn.base": '{"architecture": "\\ud800"}', "fmn.concepts": '[{"phrases": ["\\ud800\\u001b[2J"]}]'}
    save_file(load_file(path), path, said)


def one_layer_of_another_model(path):
    write_good(path)
    other = {k.replace("down_blocks_0", "down_blocks_9"): v for k, v in load_file(path).items()}
    save_file(load_file(path) | other, path)


def kernels(path):
    write_good(path)
    tensors = load_file(path)
    for key in [k for k in tensors if not k.endswith("alpha")]:
        shape = tensors[key].shape
        tensors[key] = (
            tensors[key]
            .reshape(*shape, 1, 1)
            .expand(*shape, *((3, 3) if "down.weight" in key else (1, 1)))
            .contiguous()
        )
    save_file(tensors, path)


def tiny_times_huge(path):
    write_good(path)
    scale = {"up.weight": 1e200, "down.weight": 1e-200}
    tensors = {k: v.double() * scale.get(k.split("lora_")[-1], 1.0) for k, v in load_file(path).items()}
    save_file(tensors, path)


def sixty_megabytes_of_metadata(path):
    write_good(path)
    save_file(load_file(path), path, {"fmn.figures": "[" + "[]," * 20_000_000 + "1]"})


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
    "none of the layers": (other_layers, "1 of 1 layers that this model lacks (unknown base)"),
    "a surrogate in its base": (surrogate_in_its_base, "1 of 1 layers of other shapes (unknown base)"),
    "one layer of another model": (one_layer_of_another_model, "1 of 2 layers that this model lacks"),
    "kernels": (kernels, "1 of 1 layers of other shapes"),
    "numbers beyond single precision": (tiny_times_huge, "NaN or infinity"),
    "60 MB of metadata": (sixty_megabytes_of_metadata, "at most 16,000,000 bytes of names and metadata"),
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
        server.run(applied("forget_me_not/bad.safetensors"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert same_picture_now(server, picture_before)


@pytest.mark.parametrize("name", ["forget_me_not/nothing.safetensors", "../../../secret.safetensors"])
def test_files_that_are_not_in_the_list(server, patches, name):
    with pytest.raises(NodeError, match="Expected a patch from the list"):
        server.run(applied(name))


def test_neither_file_nor_patch(server):
    with pytest.raises(NodeError, match="got neither a file nor a connection"):
        server.run(applied("(from the forget_patch input)"))
