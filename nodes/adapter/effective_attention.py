"""Reads the cross-attention of a MODEL as it acts in sampling, after other nodes have changed it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ...fmn_core.attention.zeroing import split_heads
from ...fmn_core.model.tokens import EncodedPrompt
from .. import host
from .chunk_memory import TOKENS_KEY
from .model import ComfyModel


class SampledModel(ComfyModel):
    """A MODEL whose UNet runs as in sampling, with the wrappers and attn2 replacements of other nodes."""

    def __init__(self, patcher: Any, clip: Any):
        super().__init__(patcher.clone(), clip)

    def _transformer_options(self, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> dict[str, Any]:
        tokens = [p.tokens for p in prompts]
        call_options = {"sigmas": sigma, "cond_or_uncond": [0] * len(tokens), TOKENS_KEY: tokens}
        return {**host.sampling_options(self.patcher), **call_options}

    @contextlib.contextmanager
    def watch(self, receive: Callable[[Any, torch.Tensor], None]):
        """Calls `receive(layer, A)` with the attention of every attn2 layer while the context is open.

        Parameters
        ----------
        receive
            Receives a CrossAttention and A (B, heads, pixels, tokens), the weights that the layer gives its values.

        Notes
        -----
        fmn_core's attention_probe has the same interface, but reads the probabilities before other nodes change them.
        """
        layers = dict(zip(host.attention_blocks(self.patcher), self.cross_attention(), strict=True))

        def replacement(block: Any) -> Callable:
            def around(before: Callable | None) -> Callable:
                def attention(q, k, v, extra_options):
                    attend = before or host.attention
                    receive(layers[block], _attention_weights(attend, q, k, v, extra_options))
                    return attend(q, k, v, extra_options)

                return attention

            return around

        def around_unet(executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
            options = transformer_options if transformer_options is not None else {}
            with contextlib.ExitStack() as stack:
                for block in layers:
                    stack.enter_context(host.replaced_attention(options, [block], replacement(block), _unchanged))
                return executor(x, timesteps, context, y, control, options, **kwargs)

        key = "fmn_effective_attention"
        host.wrap_unet(self.patcher, key, around_unet)
        try:
            yield
        finally:
            host.unwrap_unet(self.patcher, key)


def _unchanged(n, context, value, extra_options):
    return n, context, value


def _attention_weights(attend: Callable, q, k, v, extra_options: dict[str, Any]) -> torch.Tensor:
    """Weights A (B, heads, n, l) of an attention that is linear in its values, computed from its output for one-hot values."""
    heads = extra_options["n_heads"]
    width, tokens = v.shape[-1] // heads, v.shape[1]
    columns = []
    for start in range(0, tokens, width):
        one_hot = torch.eye(tokens, dtype=v.dtype, device=v.device)[:, start : start + width]
        one_hot = torch.nn.functional.pad(one_hot, (0, width - one_hot.shape[1]))
        values = one_hot.repeat(1, heads).expand(len(v), -1, -1)
        columns.append(split_heads(attend(q, k, values.contiguous(), extra_options), heads))
    return torch.cat(columns, -1)[..., :tokens].float()
