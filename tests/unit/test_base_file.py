"""What a checkpoint's header says of its UNet."""

import pytest
import torch
from safetensors.torch import save_file

from fmn_core.patch.base_file import read_base
from fmn_core.patch.patch import base_difference

# Rows of each layer in forward order; by name, the eleventh block of the input would come before the second.
LDM = {
    "input_blocks.2.1": 2,
    "input_blocks.11.1": 3,
    "middle_block.1": 4,
    "output_blocks.0.1": 5,
    "output_blocks.10.1": 6,
}
DIFFUSERS = {"down_blocks.0.attentions.1": 2, "down_blocks.2.attentions.0": 3, "mid_block.attentions.0": 4,
             "up_blocks.1.attentions.2": 5, "up_blocks.3.attentions.0": 6}  # fmt: skip


def saved(path, layers, prefix="", **others):
    keys = {f"{prefix}{n}.transformer_blocks.0.attn2.to_k.weight": torch.zeros(r, 8) for n, r in layers.items()}
    save_file({**dict(sorted(keys.items())), **others}, path)
    return path


@pytest.mark.parametrize(
    ("layers", "prefix"),
    [(LDM, "model.diffusion_model."), (LDM, "diffusion_model."), (LDM, ""), (LDM, "unet."), (DIFFUSERS, "")],
)
def test_shapes_are_in_forward_order(tmp_path, layers, prefix):
    others = {"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn1.to_k.weight": torch.zeros(9, 9)}
    base = read_base(saved(tmp_path / "a.safetensors", layers, prefix, **others))
    assert base == {"architecture": "unet-5x8", "context_dim": 8, "shapes": [[n, 8] for n in (2, 3, 4, 5, 6)]}
    assert base_difference(base | {"norms": [1.0] * 5}, base) == ""


def test_other_files_have_no_base(tmp_path):
    (tmp_path / "pickle.ckpt").write_bytes(b"PK\x03\x04 not read")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 6)
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}, tmp_path / "flux.safetensors")
    names = ("pickle.ckpt", "cut.safetensors", "flux.safetensors", "nothing.safetensors")
    assert [read_base(tmp_path / name) for name in names] == [{}] * 4
