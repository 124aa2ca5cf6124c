"""Mutations of a patch's factors: kernels of other shapes, layers of other models, numbers that half precision cannot hold."""

from __future__ import annotations

import random

import torch
from safetensors.torch import load, save

KINDS = ("kernel shapes", "mixed layers", "extreme numbers")
# Layers of SDXL, of Flux, of a text encoder and of no model.
OTHER_LAYERS = (
    "lora_unet_up_blocks_0_attentions_2_transformer_blocks_9_attn2_to_v",
    "lora_unet_double_blocks_0_img_attn_qkv",
    "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "lora_unet_down_blocks_0_attentions_0",
)
EXTREMES = (1e200, 1e-200, 1e38, 1e18, 1e-38, 1e-45, 65504.0, float("inf"), float("nan"), 0.0)


def mutate(data: bytes, metadata: dict[str, str], kind: str, rng: random.Random) -> bytes:
    """Mutates the tensors of a file; the result is a valid safetensors file with this metadata."""
    tensors = load(data)
    names = sorted({key.split(".")[0] for key in tensors})
    if kind == "kernel shapes":
        kernel = rng.choice(([1, 1], [3, 3], [1, 3], [9], [3, 3, 3]))
        for name in rng.sample(names, rng.randint(1, len(names))):
            _add_kernel(tensors, name, kernel, rng)
    elif kind == "mixed layers":
        for name in rng.sample(names, rng.randint(1, len(names))):
            new_name = rng.choice(OTHER_LAYERS)
            layer = {key: tensors.pop(key) for key in list(tensors) if key.startswith(name + ".")}
            tensors |= {key.replace(name, new_name): tensor for key, tensor in layer.items()}
    else:
        _insert_extremes(tensors, rng)
    return save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata)


def _add_kernel(tensors: dict[str, torch.Tensor], name: str, kernel: list[int], rng: random.Random) -> None:
    """Turns a layer's factors into those of a convolution with this kernel, usually with a fitting `up`."""
    up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
    tensors[f"{name}.lora_down.weight"] = down.reshape(*down.shape, *(1 for _ in kernel)).expand(*down.shape, *kernel)
    if rng.random() < 0.8:
        tensors[f"{name}.lora_up.weight"] = up.reshape(*up.shape, *(1 for _ in kernel))


def _insert_extremes(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    """Multiplies tensors by extreme numbers, or puts one into a single place, in double precision."""
    for key in rng.sample(sorted(tensors), rng.randint(1, 3)):
        tensor, value = tensors[key].double(), rng.choice(EXTREMES)
        if rng.random() < 0.5 or tensor.ndim == 0:
            tensor = tensor * value if value else torch.zeros_like(tensor)
        else:
            tensor.view(-1)[rng.randrange(tensor.numel())] = value
        tensors[key] = tensor
