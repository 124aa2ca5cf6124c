"""What the UNet asks of a prompt: statistics of every cross-attention layer's queries, from passes without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from fmn_core.attention.zeroing import split_heads
from fmn_core.model.protocol import CrossAttention, ForgetModel
from fmn_core.model.sampler import euler, schedule
from fmn_core.model.tokens import EncodedPrompt

QUERY_STEPS = 6


@contextlib.contextmanager
def query_probe(
    layers: list[CrossAttention], receive: Callable[[CrossAttention, torch.Tensor], None]
) -> Iterator[None]:
    """Calls `receive(layer, Q)` for every cross-attention layer that runs, Q (B, heads, pixels, d)."""

    def watch(layer: CrossAttention):
        return lambda module, inputs, output: receive(layer, split_heads(output, layer.heads))

    handles = [layer.projections["to_q"].register_forward_hook(watch(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def sampled_queries(
    model: ForgetModel,
    prompts: list[EncodedPrompt],
    size: tuple[int, int, int],
    receive: Callable[[int, CrossAttention, torch.Tensor], None],
    steps: int = QUERY_STEPS,
    seed: int = 0,
) -> None:
    """Draws each prompt in `steps` Euler steps without guidance and calls `receive(prompt number, layer, Q)` for every layer of every step.

    `size`: (C, h, w) of the latents. The model must be ready to denoise; its weights get no gradients.
    """
    sigmas = schedule(model.sigmas(), steps).to(model.device)
    generator = torch.Generator().manual_seed(seed)
    for number, prompt in enumerate(prompts):
        prompt = prompt.to(model.device)
        x = (torch.randn(1, *size, generator=generator) * sigmas[0].cpu()).to(model.device)
        with query_probe(model.cross_attention(), lambda layer, q, n=number: receive(n, layer, q)):
            euler(x, sigmas, lambda x, sigma, prompt=prompt: model.denoise(x, sigma.reshape(1), [prompt]))
