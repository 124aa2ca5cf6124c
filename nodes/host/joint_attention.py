"""Replaces what the picture takes from text in transformers in which both attend to one another."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...fmn_core.attention.zeroing import merge_heads, split_heads

_OVERRIDE = "optimized_attention_override"


@dataclass
class JointAttention:
    """What the rows of the picture attend to in one layer.

    Attributes
    ----------
    layer
        Number of the layer, in the order of transformers.joint_layers.
    queries
        Of the picture, (B, pixels, heads * d).
    keys, values
        Of text, then picture, (B, l, heads * d).
    text
        Number of text rows.
    attend
        The attention as a function of the values: (B, l, heads * d) -> (B, pixels, heads * d).
    """

    layer: int
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    heads: int
    text: int
    attend: Callable[[torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def replaced_joint_attention(
    options: dict[str, Any], layers: Collection[int], text: int, replacement: Callable[[JointAttention], torch.Tensor]
) -> Iterator[None]:
    """Replaces what the picture takes from text and picture for one call of the model.

    The attention that other nodes have put in place of the host's is used; the call's transformer_options are restored afterwards.

    Parameters
    ----------
    options
        The transformer_options of the call.
    layers
        Numbers of the layers to replace.
    text
        Number of text rows, which stand before those of the picture.
    replacement
        Returns what takes the place of the picture's rows, (B, pixels, heads * d).
    """
    before, joint, number = options.get(_OVERRIDE), 0, itertools.count()

    def override(func, q, k, v, *args, **kwargs):
        nonlocal joint
        attend = func if before is None else functools.partial(before, func)
        # Blocks of some models have further attention of the picture to itself, of fewer rows.
        joint = joint or k.shape[-2]
        if k.shape[-2] != joint or q.shape[-2] != joint:
            return attend(q, k, v, *args, **kwargs)
        layer = next(number)
        if layer not in layers:
            return attend(q, k, v, *args, **kwargs)
        call = _Call(attend, q, k, v, args, kwargs)
        return torch.cat([call.rows(slice(text), v), replacement(call.joint(layer, text)).to(v.dtype)], dim=1)

    options[_OVERRIDE] = override
    try:
        yield
    finally:
        options.pop(_OVERRIDE) if before is None else options.update({_OVERRIDE: before})


@dataclass
class _Call:
    """A call of the host's attention, with heads split or joined."""

    attend: Callable[..., torch.Tensor]
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    args: tuple
    kwargs: dict[str, Any]

    def rows(self, which: slice, values: torch.Tensor) -> torch.Tensor:
        """The result (B, rows, heads * d) for some of the rows."""
        mask, q = self.kwargs.get("mask"), self.q
        own = mask[..., which, :] if mask is not None and mask.shape[-2] == q.shape[-2] else mask
        return self.attend(q[..., which, :], self.k, values, *self.args, **{**self.kwargs, "mask": own})

    def joint(self, layer: int, text: int) -> JointAttention:
        split = self.kwargs.get("skip_reshape", False)
        heads = self.q.shape[1] if split else (self.kwargs["heads"] if "heads" in self.kwargs else self.args[0])
        # SD 3 splits the heads of values, though not those of queries and keys.
        q, k, values = (merge_heads(x) if split else x.flatten(2) for x in (self.q, self.k, self.v))

        def attend(values: torch.Tensor) -> torch.Tensor:
            return self.rows(slice(text, None), split_heads(values, heads) if split else values)

        return JointAttention(layer, q[:, text:], k, values, heads, text, attend)
