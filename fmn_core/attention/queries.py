"""What the UNet asks of a prompt: statistics of every cross-attention layer's queries, from passes without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from ..model.protocol import CrossAttention, ForgetModel
from ..model.sampler import euler, schedule
from ..model.tokens import EncodedPrompt
from .zeroing import split_heads

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


def constant_directions(
    model: ForgetModel, prompts: list[EncodedPrompt], size: tuple[int, int, int], eps: float = 1e-4
) -> dict[str, torch.Tensor]:
    """The vector u (heads * d,) of each layer on which every query projects to one, as nearly as queries can.

    Head by head u = (Q^T Q + eps I)^-1 Q^T 1, eps relative to the mean eigenvalue. A key that loses tau sqrt(d) u has a logit lower by tau
    at every pixel. Float64 on the CPU.
    """
    squares: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}

    def add(number: int, layer: CrossAttention, q: torch.Tensor) -> None:
        q = q.transpose(0, 1).flatten(1, 2).cpu().double()
        squares[layer.name] = squares.get(layer.name, 0) + q.transpose(1, 2) @ q
        sums[layer.name] = sums.get(layer.name, 0) + q.sum(1)

    sampled_queries(model, prompts, size, add)
    found = {}
    for name, square in squares.items():
        mean = square.diagonal(dim1=1, dim2=2).mean(1)
        eye = torch.eye(square.shape[-1], dtype=square.dtype)
        found[name] = torch.linalg.solve(square + eps * mean[:, None, None] * eye, sums[name]).flatten()
    return found
