"""Cross-attention layers chosen by block or number, and their projections by what they read."""

from __future__ import annotations

from typing import Literal

from ..errors import ForgetError

TextProjections = Literal["values", "keys", "keys and values"]
# Projections of cross-attention that read the text, by the choice of the nodes.
TEXT_PROJECTIONS: dict[TextProjections, tuple[str, ...]] = {
    "values": ("to_v",),
    "keys": ("to_k",),
    "keys and values": ("to_k", "to_v"),
}
# What "attn2" trains, too.
TRAINED_PROJECTIONS = {**TEXT_PROJECTIONS, "attn2": ("to_q", "to_k", "to_v", "to_out.0")}
WHOLE_NETWORK = "whole UNet"
# Short names of the UNet's groups of blocks and their names in diffusers, in forward order.
UNET_BLOCKS = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}


def choose_layers(choice: str, names: list[str]) -> set[int]:
    """Resolves a choice of layers to their indices.

    Parameters
    ----------
    choice
        Terms joined by commas, each `all`, `down`, `mid`, `up`, a number from 0, or a range such as 3-6.
    names
        Diffusers paths of all layers, in forward order.

    Raises
    ------
    ForgetError
        On any other text, and on a choice that selects no layer or one that does not exist.
    """
    indices: set[int] = set()
    for term in (text.strip().lower() for text in choice.split(",")):
        first, dash, last = term.partition("-")
        if term == "all":
            indices.update(range(len(names)))
        elif term in UNET_BLOCKS:
            indices.update(i for i, name in enumerate(names) if name.startswith(UNET_BLOCKS[term]))
        elif first.isdigit() and (not dash or last.isdigit()):
            indices.update(range(int(first), int(last or first) + 1))
        else:
            raise ForgetError(
                f"Expected layers as all, down, mid, up, numbers or ranges like 3-6, joined by commas, got {term!r}."
            )
    if not indices or max(indices) >= len(names):
        raise ForgetError(f"Expected layer numbers from 0 to {len(names) - 1} for this model, got {choice!r}.")
    return indices
