"""Runs the demo's prompts in a real ComfyUI, with a progress bar, and reads their pictures."""

from __future__ import annotations

import torch
from tqdm import tqdm

from tools.comfy_server import ComfyServer

# Pictures of the concept in each caption.
PICTURES = 4


def node_by_type(prompt: dict, node_type: str) -> tuple[str, dict]:
    """Id and inputs of the first node of a type."""
    return next((i, n["inputs"]) for i, n in prompt.items() if n["class_type"] == node_type)


def measuring_prompt(loader: str, patch_file: str, asks: dict[str, tuple[list[str], int]]) -> dict:
    """A prompt that draws captions, several seeds of each, without the patch and with the stock loader of LoRA files.

    Parameters
    ----------
    loader
        Id of the node that loads the miniature.
    asks
        For each node of the prompt: captions, and the number of pictures of each.
    """
    prompt = {
        "model": {"class_type": loader, "inputs": {}},
        "patched": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": ["model", 0], "lora_name": patch_file, "strength_model": 1.0},
        },
    }
    wires = {"before": ["model", 0], "after": ["patched", 0], "clip": ["model", 1], "vae": ["model", 2]}
    sampling = {
        "seed": 1,
        "steps": 20,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "width": 0,
        "height": 0,
    }
    for name, (captions, pictures) in asks.items():
        inputs = {**wires, **sampling, "prompts": "\n".join(captions), "pictures": pictures}
        prompt[name] = {"class_type": "FMN_Compare", "inputs": inputs}
    return prompt


def run_with_progress(server: ComfyServer, prompt: dict, label: str) -> dict:
    """Runs a prompt with a progress bar, on which a node is one unit and its own progress a fraction."""
    with tqdm(
        total=len(prompt),
        desc=label,
        mininterval=0.5,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
    ) as bar:
        done: set[str] = set()

        def on_event(kind: str, data: dict) -> None:
            if kind == "executing" and data.get("node"):
                done.add(data["node"])
                bar.set_postfix_str(f"running {prompt[data['node']]['class_type']}", refresh=False)
            elif kind == "execution_cached":
                done.update(data.get("nodes", []))
            position = len(done)
            if kind == "progress" and data.get("max"):
                position += data["value"] / data["max"] - 1
            bar.update(max(0.0, min(position, len(prompt)) - bar.n))

        outputs = server.run(prompt, on_event)
        bar.set_postfix_str("", refresh=False)
        bar.update(len(prompt) - bar.n)
    return outputs


def pictures_of(server: ComfyServer, output: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures (N, H, W, 3) in 0..1 before and after of a Compare node's output."""
    import numpy as np

    before, after = (
        torch.stack(
            [torch.from_numpy(np.array(server.image(e).convert("RGB"))).float() / 255 for e in output[f"fmn_{when}"]]
        )
        for when in ("before", "after")
    )
    return before, after


def before_after_rows(server: ComfyServer, prompt: dict, outputs: dict) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The starter's pictures before and after, by caption."""
    node, inputs = node_by_type(prompt, "FMN_Compare")
    before, after = (batch.split(PICTURES) for batch in pictures_of(server, outputs[node]))
    return dict(zip(inputs["prompts"].splitlines(), zip(before, after)))
