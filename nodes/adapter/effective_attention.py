"""The attention with which a MODEL really paints: after whatever other nodes do to its cross-attention while sampling."""

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
    """A MODEL whose UNet runs as sampling runs it, with the wrappers and the attn2 replacements of other nodes."""

    def __init__(self, patcher: Any, clip: Any):
        super().__init__(patcher.clone(), clip)

    def _transformer_options(self, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> dict[str, Any]:
        tokens = [p.tokens for p in prompts]
        about = {"sigmas": sigma, "cond_or_uncond": [0] * len(tokens), TOKENS_KEY: tokens}
        return {**host.sampling_options(self.patcher), **about}

    @contextlib.contextmanager
    def watch(self, receive: Callable[[Any, torch.Tensor], None]):
        """Calls `receive(layer, A)` for every attn2 layer, A (B, heads, pixels, tokens) as the layer really weighs its values.

        As fmn_core's attention_probe, which sees the probabilities before other nodes change them.
        """
        blocks = dict(zip(host.attention_blocks(self.patcher), self.cross_attention(), strict=True))

        def replacement(block: Any) -> Callable:
            def around(before: Callable | None) -> Callable:
                def attention(q, k, v, extra_options):
                    attend = before or host.attention
                    receive(blocks[block], _weights(attend, q, k, v, extra_options))
                    return attend(q, k, v, extra_options)

                return attention

            return around

        def around_unet(executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
            options = transformer_options if transformer_options is not None else {}
            with contextlib.ExitStack() as stack:
                for block in blocks:
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


def _weights(attend: Callable, q, k, v, extra_options: dict[str, Any]) -> torch.Tensor:
    """The weights A (B, heads, n, l) of an attention that is linear in its values, from what it makes of one-hot values."""
    heads = extra_options["n_heads"]
    width, tokens = v.shape[-1] // heads, v.shape[1]
    found = []
    for start in range(0, tokens, width):
        part = torch.eye(tokens, dtype=v.dtype, device=v.device)[:, start : start + width]
        part = torch.nn.functional.pad(part, (0, width - part.shape[1]))
        values = part.repeat(1, heads).expand(len(v), -1, -1)
        found.append(split_heads(attend(q, k, values.contiguous(), extra_options), heads))
    return torch.cat(found, -1)[..., :tokens].float()
