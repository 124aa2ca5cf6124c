"""API-format prompts for the tests, and what comes out of them."""

from __future__ import annotations

import itertools

import numpy as np
import torch

ZEBRA, HORSE = "a picture of a zebra in noto style", "a picture of a horse in noto style"
OTHERS = "horse\ndog\nfox\ncat\ntiger\npizza\nred apple\nguitar\nsanta claus\nrobot"
_fresh = itertools.count()


def train_inputs(**changes) -> dict:
    inputs = {
        "model": ["mini", 0], "clip": ["mini", 1], "phrase": "zebra", "kind": "object", "method": "closed form",
        "preserve_prompts": OTHERS, "preservation": 1.0, "steps": 3, "learning_rate": 3e-3, "rank": 32, "train": "auto",
        "loss": "paper", "end_token": "first", "target_mass": 0.0, "seed": 0, "file_name": "forget_zebra",
    }  # fmt: skip
    return inputs | changes


def miniature() -> dict:
    return {"mini": {"class_type": "FMN_LoadMiniature", "inputs": {}}}


def train(**changes) -> dict:
    """A prompt that trains; the node is called "train"."""
    return miniature() | {"train": {"class_type": "FMN_TrainForgetPatch", "inputs": train_inputs(**changes)}}


def sampled(
    name: str,
    model: list,
    caption: str,
    seed: int = 1,
    batch: int = 1,
    encode: str = "CLIPTextEncode",
    negative: str = "",
    steps: int = 8,
) -> dict:
    """Nodes that sample `caption` with a model and preview the picture in node `name`."""
    return {
        f"{name}.text": {"class_type": encode, "inputs": {"clip": ["mini", 1], "text": caption}},
        f"{name}.negative": {"class_type": encode, "inputs": {"clip": ["mini", 1], "text": negative}},
        f"{name}.latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": batch}},
        f"{name}.sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": model, "seed": seed, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
                "positive": [f"{name}.text", 0], "negative": [f"{name}.negative", 0], "latent_image": [f"{name}.latent", 0],
            },
        },
        f"{name}.decode": {"class_type": "VAEDecode", "inputs": {"samples": [f"{name}.sample", 0], "vae": ["mini", 2]}},
        name: {"class_type": "PreviewImage", "inputs": {"images": [f"{name}.decode", 0]}},
    }  # fmt: skip


def uncached(prompt: dict) -> dict:
    """Renames all nodes, so that the server runs them again instead of answering from its cache."""
    tag = f"r{next(_fresh)}."

    def rename(value):
        return (
            [tag + value[0], value[1]] if isinstance(value, list) and len(value) == 2 and value[0] in prompt else value
        )

    return {tag + k: {**n, "inputs": {i: rename(v) for i, v in n["inputs"].items()}} for k, n in prompt.items()}


def pictures(server, outputs: dict, name: str) -> torch.Tensor:
    """(B, H, W, 3) uint8 of a preview node."""
    return torch.stack([torch.from_numpy(np.array(server.image(e))) for e in outputs[name]["images"]])
