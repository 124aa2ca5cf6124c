"""The published training loop of Forget-Me-Not, re-created for comparison only; the pack does not use it.

As released: the whole UNet in float32, AdamW (0.9, 0.999, weight decay 0.01), 35 steps at 2e-6, batch 1, one template,
one un-squared norm over the concept's attention in all layers, end tokens included, no image (`no_real_image`), and a
gradient clip that does nothing (its parameter list is an exhausted generator), so none is applied.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from bench.world import Pack
from fmn_core.attention.hooks import attention_probe
from fmn_core.model.tokens import concept_columns

TEMPLATES = {"object": "a photo of {}", "identity": "a photo of {}", "style": "a photo in the style of {}"}


@contextlib.contextmanager
def published_loop(
    world: Pack,
    concepts: dict[str, str],
    learning_rate: float = 2e-6,
    steps: int = 35,
    only_attn2: bool = False,
    seed: int = 0,
) -> Iterator[float]:
    """Trains the UNet in place, yields the seconds it took, and puts the weights back on exit.

    `concepts`: phrase -> kind; they take turns, `steps` steps for each.
    """
    adapter = world.adapter()
    with adapter.ready_for_gradients():
        originals = {n: p.detach().clone() for n, p in adapter.unet.named_parameters()}
        chosen = [p for n, p in adapter.unet.named_parameters() if not only_attn2 or ".attn2." in n]
        try:
            yield _train(adapter, chosen, concepts, learning_rate, steps, seed)
        finally:
            with torch.no_grad():
                for name, parameter in adapter.unet.named_parameters():
                    parameter.requires_grad_(False)
                    parameter.copy_(originals[name])


def _train(adapter, chosen, concepts: dict[str, str], learning_rate: float, steps: int, seed: int) -> float:
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    prompts = adapter.encode([TEMPLATES[kind].format(phrase) for phrase, kind in concepts.items()])
    ids = [{encoder: [t] for encoder, t in adapter.phrase_tokens(phrase).items()} for phrase in concepts]
    columns = [concept_columns(p.tokens, i, adapter.vocabulary, "all") for p, i in zip(prompts, ids)]
    for parameter in chosen:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(chosen, lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)
    sigmas = adapter.sigmas()
    for step in range(steps * len(prompts)):
        collected: list[torch.Tensor] = []
        here = columns[step % len(prompts)]
        sigma = sigmas[torch.randint(len(sigmas), (1,), generator=generator)]
        noise = torch.randn(1, *adapter.latent_shape(), generator=generator)
        with attention_probe(
            adapter.cross_attention(), lambda layer, a, out=collected, at=here: out.append(a[..., at].flatten())
        ):
            adapter.denoise(sigma.view(1, 1, 1, 1) * noise, sigma, [prompts[step % len(prompts)]])
        optimiser.zero_grad(set_to_none=True)
        torch.cat(collected).norm().backward()
        optimiser.step()
    for parameter in chosen:
        parameter.requires_grad_(False)
    return time.perf_counter() - started
