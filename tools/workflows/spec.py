"""Parts of a workflow: nodes in columns, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Where the host offers to download the checkpoint of a workflow that needs one.
CHECKPOINT = {
    "name": "v1-5-pruned-emaonly-fp16.safetensors",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors?download=true",
    "directory": "checkpoints",
}
# A prompt of the miniature, names that it knows, and the inputs of a node that works on the loaded model.
STYLED = "a picture of a {} in noto style"
SCENE = "a picture of {} on a {} ground in noto style"
NAMES = (
    "zebra\nhorse\ndog\nfox\ncat\nmouse\ntiger\npanda\npenguin\nowl\nfrog\nelephant\npizza\ncar\nhouse\nguitar\nrobot"
)
# What the host's app mode asks for: the phrase, its kind, what to keep, and the prompts to look at.
FORGET_AND_LOOK = (("forget", "forget"), ("forget", "kind"), ("forget", "keep"), ("compare", "prompts"))
WIRES = {"model": ("model", 0), "clip": ("model", 1)}


@dataclass(frozen=True)
class Node:
    """A node of a workflow.

    Parameters
    ----------
    key
        Its name in the workflow, by which other nodes refer to it.
    type
        Its node id.
    title
        Its title; empty: its display name.
    widgets
        Values of widgets that differ from the default.
    inputs
        For each linked input, key and number of an output.
    width
        In pixels.
    """

    key: str
    type: str
    title: str = ""
    widgets: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[str, int]] = field(default_factory=dict)
    width: int = 320
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workflow:
    """A shipped workflow.

    Parameters
    ----------
    name
        Its file name without the ending, which the template browser shows.
    note
        Markdown of the note beside it.
    columns
        Groups of nodes from left to right: the title of the group, and its nodes from top to bottom.
    thumbnail
        Key of the node whose pictures before and after are its thumbnail.
    on_miniature
        What stands in place of a text when the miniature runs it for the thumbnail, because it knows few words.
    app_inputs, app_outputs
        What the host's app mode shows, where it has one: widgets by key and name, and nodes by key.
    """

    name: str
    note: str
    columns: tuple[tuple[str, tuple[Node, ...]], ...]
    thumbnail: str
    on_miniature: dict[str, str] = field(default_factory=dict)
    app_inputs: tuple[tuple[str, str], ...] = ()
    app_outputs: tuple[str, ...] = ()

    def nodes(self) -> list[Node]:
        """All nodes, column by column."""
        return [node for _, column in self.columns for node in column]


def miniature() -> Node:
    return Node("model", "FMN_LoadMiniature", width=260)


def miniature_flux() -> Node:
    return Node("model", "FMN_LoadMiniatureFlux", width=260)


def checkpoint() -> Node:
    return Node(
        "model",
        "CheckpointLoaderSimple",
        "Stable Diffusion checkpoint",
        {"ckpt_name": CHECKPOINT["name"]},
        properties={"models": [CHECKPOINT]},
    )


def forget(phrase: str, key: str = "forget", inputs: dict[str, tuple[str, int]] | None = None, **widgets: Any) -> Node:
    """Forget Concept on the loaded model."""
    wires = {"model": ("model", 0), "clip": ("model", 1)} | (inputs or {})
    return Node(key, "FMN_ForgetConcept", widgets={"forget": phrase, **widgets}, inputs=wires, width=380)


def compare(
    prompts: list[str],
    after: tuple[str, int] = ("forget", 0),
    patch: tuple[str, int] | None = ("forget", 1),
    title: str = "",
    **widgets: Any,
) -> Node:
    """Compare the loaded model with `after`; on the miniature unless widgets say otherwise."""
    wires = {"before": ("model", 0), "after": after, "clip": ("model", 1), "vae": ("model", 2)}
    wires |= {"forget_patch": patch} if patch else {}
    values = {"prompts": "\n".join(prompts), "seed": 1, "cfg": 3.0, **widgets}
    return Node("compare", "FMN_Compare", title, values, wires, 400)


def picture(prompt: str, key: str = "pictures", count: int = 4, seed: int = 11) -> tuple[Node, ...]:
    """Nodes that draw reference pictures with the loaded model; the pictures are output 0 of the node `key`."""
    return (
        Node(f"{key} text", "CLIPTextEncode", f"{key}: prompt", {"text": prompt}, {"clip": ("model", 1)}, 280),
        Node(f"{key} negative", "CLIPTextEncode", "negative prompt", {"text": ""}, {"clip": ("model", 1)}, 280),
        Node(f"{key} latent", "EmptyLatentImage", "", {"width": 128, "height": 128, "batch_size": count}, {}, 280),
        Node(
            f"{key} sample",
            "KSampler",
            "",
            {"seed": seed, "control_after_generate": "fixed", "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"},
            {
                "model": ("model", 0),
                "positive": (f"{key} text", 0),
                "negative": (f"{key} negative", 0),
                "latent_image": (f"{key} latent", 0),
            },
            280,
        ),
        Node(key, "VAEDecode", key, {}, {"samples": (f"{key} sample", 0), "vae": ("model", 2)}, 200),
    )  # fmt: skip
