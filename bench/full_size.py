"""Randomly initialised checkpoints of full size, in the layout of the official files."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import torch

_SD = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2, "legacy": False,
    "use_spatial_transformer": True, "use_checkpoint": False, "use_temporal_attention": False,
}  # fmt: skip
_SD12 = _SD | {
    "attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4], "transformer_depth": 1, "adm_in_channels": None,
}  # fmt: skip
_SD2 = _SD12 | {"context_dim": 1024, "use_linear_in_transformer": True, "num_head_channels": 64}
# The networks of v1-inference.yaml, v2-inference(-v).yaml and sd_xl_base.yaml.
UNETS: dict[str, dict[str, Any]] = {
    "SD 1.5": _SD12 | {"context_dim": 768, "use_linear_in_transformer": False, "num_heads": 8},
    "SD 2.1": _SD2,
    "SD 2.1 base": _SD2,
    "SDXL": _SD
    | {
        "attention_resolutions": [4, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 2, 10], "context_dim": 2048,
        "use_linear_in_transformer": True, "num_head_channels": 64, "num_classes": "sequential", "adm_in_channels": 2816,
    },
}  # fmt: skip
# Numbers of tensors in the official files: UNet, text encoders, VAE.
TENSORS = {
    "SD 1.5": (686, 197, 248),
    "SD 2.1": (686, 294, 248),
    "SD 2.1 base": (686, 294, 248),
    "SDXL": (1680, 587, 248),
}
# UNet2DConditionModel's configuration in unet/config.json of the diffusers repositories.
_DOWN, _UP = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
_DIFFUSERS_SD2 = {
    "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
    "block_out_channels": (320, 640, 1280, 1280), "down_block_types": _DOWN, "up_block_types": _UP,
}  # fmt: skip
DIFFUSERS_UNETS: dict[str, dict[str, Any]] = {
    "SD 1.5": {
        "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280), "down_block_types": _DOWN, "up_block_types": _UP,
    },
    "SD 2.1": _DIFFUSERS_SD2 | {"sample_size": 96, "upcast_attention": True},
    "SD 2.1 base": _DIFFUSERS_SD2,
    "SDXL": {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
_VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
# The host takes an SD 2.x for a v-prediction model when the standard deviation of these biases exceeds 0.09.
_V_PREDICTION_BIAS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_NORM = re.compile(r"(norm\w*|ln_\w+|in_layers\.0|out_layers\.0|model\.out\.0|diffusion_model\.out\.0)\.weight$")


def shapes(name: str) -> dict[str, torch.Size]:
    """Shapes of all tensors in a model's official file by key, from the host's classes on the meta device."""
    from comfy import model_detection, supported_models

    kind = getattr(supported_models, {"SD 1.5": "SD15", "SDXL": "SDXL"}.get(name, "SD20"))
    config = kind(model_detection.convert_config(UNETS[name]))
    parts = _unet(config), _text(config), _vae(config)
    assert tuple(len(p) for p in parts) == TENSORS[name]
    return {key: tensor.shape for part in parts for key, tensor in part.items()}


def _unet(config: Any) -> dict[str, torch.Tensor]:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**config.unet_config, device="meta", dtype=torch.float16)
    return config.process_unet_state_dict_for_saving(unet.state_dict())


def _text(config: Any) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        text = config.clip_target().clip(device="meta", dtype=torch.float16)
    weights = config.process_clip_state_dict_for_saving(text.state_dict())
    # The official files hold these buffers, the host's text encoders do not.
    for prefix in ("cond_stage_model", "conditioner.embedders.0"):
        if f"{prefix}.transformer.text_model.final_layer_norm.weight" in weights:
            weights[f"{prefix}.transformer.text_model.embeddings.position_ids"] = torch.empty(1, 77, device="meta")
    return weights


def _vae(config: Any) -> dict[str, torch.Tensor]:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(ddconfig=_VAE, embed_dim=4)
    return config.process_vae_state_dict_for_saving(vae.state_dict())


def write_checkpoint(name: str, path: Path, seed: int = 0) -> int:
    """Writes a random checkpoint in half precision as safetensors, and returns its size in bytes.

    Notes
    -----
    Weights have variance 1 / inputs and norms are near the identity, so that activations stay finite. The tensors are
    written one at a time, so that memory stays small.
    """
    tensor_shapes = shapes(name)
    header, end = {}, 0
    for key, shape in tensor_shapes.items():
        kind, size = ("I64", 8) if key.endswith("position_ids") else ("F16", 2)
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + shape.numel() * size]}
        end += shape.numel() * size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = _Noise(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, shape in tensor_shapes.items():
            file.write(_random_tensor(name, key, shape, noise).contiguous().numpy().data)
    return path.stat().st_size


class _Noise:
    """Normal noise cut from one long draw, whose prime length keeps rows from repeating."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = torch.randn(16_777_259, generator=self.generator)

    def __call__(self, shape: torch.Size, scale: float) -> torch.Tensor:
        start = int(torch.randint(len(self.pool), (1,), generator=self.generator))
        count, pieces = shape.numel(), []
        while count:
            pieces.append((self.pool[start : start + count] * scale).half())
            count, start = count - len(pieces[-1]), 0
        return torch.cat(pieces).reshape(shape)


def _random_tensor(name: str, key: str, shape: torch.Size, noise: _Noise) -> torch.Tensor:
    if key.endswith("position_ids"):
        return torch.arange(77)[None]
    if key.endswith("logit_scale"):
        return torch.tensor(4.6, dtype=torch.float16)
    if len(shape) == 1 and _NORM.search(key):
        return 1 + noise(shape, 0.05)
    if key.endswith(_V_PREDICTION_BIAS) and name == "SD 2.1":
        return noise(shape, 0.15)
    if len(shape) == 1 or "embedding" in key:
        return noise(shape, 0.02)
    return noise(shape, shape[1:].numel() ** -0.5)


@contextlib.contextmanager
def half_precision(enabled: bool):
    """Sets the host's --fp16-unet, so that SDXL takes 5 GB and not 10; a CPU computes in fp32 nevertheless."""
    from comfy.cli_args import args

    before, args.fp16_unet = args.fp16_unet, enabled
    try:
        yield
    finally:
        args.fp16_unet = before
