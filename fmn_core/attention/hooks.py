"""Forward hooks that read and change attention in any host, and gradient checkpointing, without touching weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch.utils.checkpoint import checkpoint

from ..model.protocol import CrossAttention
from .zeroing import attention_probabilities


@contextlib.contextmanager
def attention_probe(
    layers: list[CrossAttention], receive: Callable[[CrossAttention, torch.Tensor], None]
) -> Iterator[None]:
    """Calls `receive(layer, A)` for every cross-attention layer that runs, A (B, heads, pixels, tokens), differentiable.

    The probabilities are computed beside the model's own attention, from the outputs of to_q and to_k, because no
    attention backend returns them. Factors injected earlier on these projections are seen.
    """
    handles = []

    def watch(layer: CrossAttention) -> None:
        seen: list[torch.Tensor] = []

        def on_q(module, inputs, output):
            seen[:] = [output]

        def on_k(module, inputs, output):
            receive(layer, attention_probabilities(seen.pop(), output, layer.heads))

        handles.append(layer.projections["to_q"].register_forward_hook(on_q))
        handles.append(layer.projections["to_k"].register_forward_hook(on_k))

    try:
        for layer in layers:
            watch(layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def scaled_columns(layers: list[CrossAttention], weight: torch.Tensor) -> Iterator[None]:
    """Zero attention on columns of every layer: v_i *= 1 - s_i, which equals A[:, i] *= 1 - s_i as to_v has no bias.

    `weight`: strength s of each column, (B, tokens).
    """
    kept: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def scale(module, inputs, output):
        place = output.device, output.dtype
        if place not in kept:
            kept[place] = (1 - weight[..., None]).to(output)
        return output * kept[place]

    handles = [layer.projections["to_v"].register_forward_hook(scale) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def checkpointed(blocks: list[torch.nn.Module]) -> Iterator[None]:
    """Gradient checkpointing: blocks keep their inputs only and run again on the way back; less memory, more time.

    Hooks inside a block run again too; what they handed out in the first run stays part of the graph.
    """

    def wrapped(forward: Callable):
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    before = {block: block.__dict__.get("forward") for block in blocks}
    try:
        for block in blocks:
            block.forward = wrapped(block.forward)
        yield
    finally:
        for block, forward in before.items():
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward
