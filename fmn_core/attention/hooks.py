"""Forward hooks that read or change attention in any host, and gradient checkpointing; weights stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..model.layers import TRAINED_PROJECTIONS, WHOLE_NETWORK
from ..model.protocol import CrossAttention
from ..model.sampler import GUIDANCE
from .zeroing import attention_probabilities


@contextlib.contextmanager
def attention_probe(
    layers: list[CrossAttention], receive: Callable[[CrossAttention, torch.Tensor], None]
) -> Iterator[None]:
    """Hands the attention probabilities of every cross-attention layer that runs to a function.

    Parameters
    ----------
    receive
        Called as receive(layer, A), with A (B, heads, pixels, tokens), differentiable.

    Notes
    -----
    The probabilities are computed a second time from the outputs of to_q and to_k, because no attention backend returns them. They
    include factors that were injected into these projections earlier.
    """
    handles = []

    def register(layer: CrossAttention) -> None:
        queries: list[torch.Tensor] = []

        def on_q(module, inputs, output):
            queries[:] = [output]

        def on_k(module, inputs, output):
            receive(layer, attention_probabilities(queries.pop(), output, layer.heads))

        handles.append(layer.projections["to_q"].register_forward_hook(on_q))
        handles.append(layer.projections["to_k"].register_forward_hook(on_k))

    try:
        for layer in layers:
            register(layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def scaled_columns(layers: list[CrossAttention], weight: torch.Tensor) -> Iterator[None]:
    """Applies zero attention to columns of every layer.

    Parameters
    ----------
    weight
        Strength s of each column, (B, tokens).

    Notes
    -----
    It scales the values, v_i *= 1 - s_i, which equals A[:, i] *= 1 - s_i as to_v has no bias.
    """
    factors: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def scale(module, inputs, output):
        key = output.device, output.dtype
        if key not in factors:
            factors[key] = (1 - weight[..., None]).to(output)
        return output * factors[key]

    handles = [layer.projections["to_v"].register_forward_hook(scale) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class SteeredCrossAttention:
    """What ForgetModel says of attention, for a model whose attention to text is that of cross_attention()."""

    guidance = GUIDANCE
    cross_attention: Callable[[], list[CrossAttention]]
    linear_layers: Callable[[], dict[str, torch.nn.Module]]

    def attention_layers(self) -> list[str]:
        """See ForgetModel.attention_layers."""
        return [layer.name for layer in self.cross_attention()]

    def probe_attention(self, receive: Callable[[Any, torch.Tensor], None]) -> AbstractContextManager[None]:
        """See ForgetModel.probe_attention."""
        return attention_probe(self.cross_attention(), receive)

    def scale_columns(self, weight: torch.Tensor) -> AbstractContextManager[None]:
        """See ForgetModel.scale_columns."""
        return scaled_columns(self.cross_attention(), weight)

    def trained_layers(self, choice: str) -> dict[str, torch.nn.Module]:
        """See ForgetModel.trained_layers."""
        if choice == WHOLE_NETWORK:
            return dict(sorted(self.linear_layers().items()))
        projections = TRAINED_PROJECTIONS[choice]
        return {f"{layer.name}.{p}": layer.projections[p] for layer in self.cross_attention() for p in projections}


@contextlib.contextmanager
def checkpointed(blocks: list[torch.nn.Module]) -> Iterator[None]:
    """Turns on gradient checkpointing: blocks keep only their inputs and run again in the backward pass, for less memory and more time.

    Notes
    -----
    Hooks inside a block run again too. Tensors that they handed out in the first run stay part of the graph.
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
