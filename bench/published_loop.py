"""The published training loop of Forget-Me-Not without its pictures, re-created for comparison; the pack does not use it.

As in the released configs/attn.yaml and src/train_attn.py: the whole UNet in float32, AdamW (0.9, 0.999, weight decay
0.01), 35 steps at 2e-6, batch 1, one template, one un-squared norm over the concept's attention in all layers, end tokens
included. The released gradient clip has no effect, because its parameter list is an exhausted generator, so no clip is
applied here.

Unlike there: the released configuration trains on noised pictures of the concept (`no_real_image: false`) and names it by
the tokens of a textual inversion (`use_ti: true`). Here x_t is noise alone, which the released code offers as
`no_real_image: true`, and the prompt has the phrase, as with `use_ti: false`.
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
    """Trains the UNet in place, yields the seconds of training, and restores the weights on exit.

    Parameters
    ----------
    concepts
        Kinds of the concepts by phrase; the concepts take turns.
    steps
        Training steps for each concept.
    only_attn2
        Trains cross-attention only.
    """
    adapter = world.adapter()
    with adapter.ready_for_gradients():
        originals = {n: p.detach().clone() for n, p in adapter.unet.named_parameters()}
        trained = [p for n, p in adapter.unet.named_parameters() if not only_attn2 or ".attn2." in n]
        try:
            yield _train(adapter, trained, concepts, learning_rate, steps, seed)
        finally:
            with torch.no_grad():
                for name, parameter in adapter.unet.named_parameters():
                    parameter.requires_grad_(False)
                    parameter.copy_(originals[name])


def _train(adapter, parameters, concepts: dict[str, str], learning_rate: float, steps: int, seed: int) -> float:
    """Runs the loop and returns its seconds."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    prompts = adapter.encode([TEMPLATES[kind].format(phrase) for phrase, kind in concepts.items()])
    ids = [{encoder: [t] for encoder, t in adapter.phrase_tokens(phrase).items()} for phrase in concepts]
    columns = [concept_columns(p.tokens, i, adapter.vocabulary, "all") for p, i in zip(prompts, ids)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)
    sigmas = adapter.sigmas()
    for step in range(steps * len(prompts)):
        collected: list[torch.Tensor] = []
        prompt_columns = columns[step % len(prompts)]
        sigma = sigmas[torch.randint(len(sigmas), (1,), generator=generator)]
        noise = torch.randn(1, *adapter.latent_shape(), generator=generator)
        with attention_probe(
            adapter.cross_attention(),
            lambda layer, a, out=collected, at=prompt_columns: out.append(a[..., at].flatten()),
        ):
            adapter.denoise(sigma.view(1, 1, 1, 1) * noise, sigma, [prompts[step % len(prompts)]])
        optimiser.zero_grad(set_to_none=True)
        torch.cat(collected).norm().backward()
        optimiser.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    return time.perf_counter() - started
