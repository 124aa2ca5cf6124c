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


def attention_map(**changes) -> dict:
    """A prompt that shows where a phrase attends; the picture is previewed in node "show"."""
    inputs = {
        "model": ["mini", 0], "clip": ["mini", 1], "prompt": ZEBRA, "phrase": "zebra", "end_token": "none",
        "width": 128, "height": 128, "steps": 4, "seed": 1,
    }  # fmt: skip
    return miniature() | {
        "map": {"class_type": "FMN_ConceptAttentionMap", "inputs": inputs | changes},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["map", 0]}},
    }


def apply(file: str = "(from the forget_patch input)", name: str = "apply", **changes) -> dict:
    """The node `name`, which applies a patch from a file or from a connected `forget_patch`."""
    inputs = {"model": ["mini", 0], "patch_file": file, "strength": 1.0}
    return {name: {"class_type": "FMN_ApplyForgetPatch", "inputs": inputs | changes}}


def concept(name: str, **changes) -> dict:
    inputs = {"phrases": "zebra", "kind": "object", "end_token": "first", "embedding": "none"}
    return {name: {"class_type": "FMN_Concept", "inputs": inputs | changes}}


def options(**changes) -> dict:
    """Training Options as node "options", with the node's own defaults but for `changes`."""
    inputs = {
        "weights": "LoRA", "precision": "as loaded", "optimiser": "AdamW", "schedule": "constant", "weight_decay": 0.01,
        "clip": 1.0, "accumulation": 1, "checkpointing": False, "attention_weight": 1.0, "visual_weight": 1.0,
        "visual_weighting": "min-SNR", "first_level": 0.0, "last_level": 1.0, "pairs": 2, "drift_every": 10,
        "drift_warning": 0.05, "drift_limit": 0.0, "own_images": 0, "copies": 1, "crop": 0.0, "flip": False, "bucket": 0,
    }  # fmt: skip
    return {"options": {"class_type": "FMN_TrainingOptions", "inputs": inputs | changes}}


def closed_form_options(**changes) -> dict:
    """Closed Form Options as node "options", with the node's own defaults but for `changes`."""
    inputs = {
        "target": "ablated prompt", "substitute": "", "precision": "float64 on the CPU",
        "ridge": 0.0, "preserve_weight": 0.0, "imagined_words": 400, "everyday_captions": True, "overshoot": -1.0, "attack_rounds": 0,
        "vocabulary_words": 96, "synonyms": "name them",
    }  # fmt: skip
    return {"options": {"class_type": "FMN_ClosedFormOptions", "inputs": inputs | changes}}


def pairs(**changes) -> dict:
    """Visual Denoising Pairs as node "pairs", its picture previewed in node "pairs.show"."""
    inputs = {
        "model": ["mini", 0], "clip": ["mini", 1], "vae": ["mini", 2], "phrase": "zebra", "kind": "object",
        "end_token": "all", "count": 2, "steps": 4, "guidance": 3.0, "seed": 0,
    }  # fmt: skip
    return {
        "pairs": {"class_type": "FMN_VisualDenoisingPairs", "inputs": inputs | changes},
        "pairs.show": {"class_type": "PreviewImage", "inputs": {"images": ["pairs", 1]}},
    }


INVERSION = {"tokens": 2, "inversion_steps": 6, "warmup": 2, "inversion_rate": 1e-2, "batch": 1, "seed": 0}


def invert(**changes) -> dict:
    """Invert Concept as node "invert", on the pictures of node "ref.decode"."""
    inputs = INVERSION | {
        "model": ["mini", 0], "clip": ["mini", 1], "vae": ["mini", 2], "images": ["ref.decode", 0], "kind": "object",
        "start": "words", "words": "zebra", "weight_decay": 0.1, "file_name": "my_concept",
    }  # fmt: skip
    return {"invert": {"class_type": "FMN_InvertConcept", "inputs": inputs | changes}}


def correct(**changes) -> dict:
    """Concept Correction as node "correct", on the pictures of node "ref.decode"."""
    inputs = INVERSION | {
        "model": ["mini", 0], "clip": ["mini", 1], "vae": ["mini", 2], "images": ["ref.decode", 0], "word": "apple",
        "contexts": "green apple", "kind": "object", "preserve_prompts": OTHERS, "preservation": 1.0, "rank": 32, "report_samples": 2,
        "file_name": "correct_apple",
    }  # fmt: skip
    return {"correct": {"class_type": "FMN_ConceptCorrection", "inputs": inputs | changes}}


def reference(caption: str = ZEBRA, batch: int = 2) -> dict:
    """Pictures drawn by the miniature, as output 0 of node "ref.decode"."""
    nodes = sampled("ref", ["mini", 0], caption, batch=batch, steps=4)
    del nodes["ref"]
    return nodes


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


# What makes a shipped workflow quick; what its pictures show is then not looked at.
FEWER = {
    "steps": 2,
    "inversion_steps": 2,
    "warmup": 1,
    "batch": 1,
    "count": 1,
    "batch_size": 1,
    "report_samples": 0,
    "pictures": 2,
}


def uncached(prompt: dict) -> dict:
    """Renames all nodes and gives each an input that it does not know, so that the server runs them again.

    Names alone do not: the host answers from its cache whatever has the same inputs.
    """
    tag = f"r{next(_fresh)}."

    def rename(value):
        return (
            [tag + value[0], value[1]] if isinstance(value, list) and len(value) == 2 and value[0] in prompt else value
        )

    return {
        tag + k: {**n, "inputs": {i: rename(v) for i, v in n["inputs"].items()} | {"uncached": tag}}
        for k, n in prompt.items()
    }


def pictures(server, outputs: dict, name: str) -> torch.Tensor:
    """(B, H, W, 3) uint8 of a preview node."""
    return torch.stack([torch.from_numpy(np.array(server.image(e))) for e in outputs[name]["images"]])


def same_picture_now(server, wanted) -> bool:
    """The cached MODEL, which the failed node had in hands, still draws what it drew."""
    prompt = uncached(sampled("a", ["mini", 0], ZEBRA)) | miniature()
    outputs = server.run(prompt)
    name = next(k for k, n in prompt.items() if n["class_type"] == "PreviewImage")
    return torch.equal(pictures(server, outputs, name), wanted)


def saved_files(prompt: dict) -> list[str]:
    """Names of the files that a workflow's prompt says it saves, sorted, with the phrase that its node forgets where a name holds one."""
    found = []
    for inputs in (node["inputs"] for node in prompt.values()):
        if name := inputs.get("file_name") or inputs.get("save_as"):
            found.append(name.replace("{phrase}", inputs.get("forget") or inputs.get("phrase") or "zebra"))
    return sorted(found)
