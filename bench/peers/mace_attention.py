"""The part of MACE that is trained: a LoRA for each concept that takes the attention from it (arXiv 2403.06135)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bench.peers.adapters import Adapters
from bench.peers.denoising import predicted
from bench.peers.peer_prompts import Forgotten
from bench.peers.weights import is_key_or_value
from fmn_core.attention.hooks import attention_probe
from fmn_core.attention.mask_from_attention import MaskSettings, mask_from_heat, noise_levels, picture_attention
from fmn_core.attention.masks import layer_mask
from fmn_core.concepts.templates import default_templates
from fmn_core.model.sampler import sample_seeds
from fmn_core.model.tokens import concept_columns


def phrase_columns(adapter: Any, prompt: Any, phrase: str, end_token: str = "none") -> list[int]:
    """Where a phrase stands in a prompt; with all end tokens, as the released `use_pooler` has it, where wanted."""
    ids = {encoder: [tokens] for encoder, tokens in adapter.phrase_tokens(phrase).items()}
    return concept_columns(prompt.tokens, ids, adapter.vocabulary, end_token)


def timestep_weights(count: int) -> torch.Tensor:
    """xi(t) for every timestep, (T,): concept-focal importance sampling."""
    t = torch.arange(count, dtype=torch.float64)
    return torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))


@dataclass
class Pictures:
    """Encoded prompts, which of their columns are the concept's, latents of pictures, and their masks (h, w) or None."""

    prompts: list[Any]
    columns: list[list[int]]
    latents: torch.Tensor
    masks: list[torch.Tensor | None]


def make_pictures(adapter: Any, concept: Forgotten, settings: Any, seed: int) -> Pictures:
    prompts = adapter.encode([t.format(concept.phrase) for t in default_templates(concept.kind)[: settings.prompts]])
    columns = [phrase_columns(adapter, p, concept.phrase, "all") for p in prompts]
    first = prompts[:1] * settings.pictures
    latents = sample_seeds(adapter, first, adapter.latent_shape(), seed, settings.sampling_steps, settings.guidance)
    if concept.kind == "style":
        return Pictures(prompts, columns, latents, [None] * len(latents))
    own, levels = phrase_columns(adapter, prompts[0], concept.phrase), noise_levels(adapter.sigmas(), 4, 0.5)
    with torch.no_grad():
        heats = [picture_attention(adapter, prompts[0], own, x[None], levels, seed=seed) for x in latents]
    return Pictures(prompts, columns, latents, [mask_from_heat(heat, MaskSettings()) for heat in heats])


def train_lora(adapter: Any, made: Pictures, settings: Any, seed: int) -> Adapters:
    """A LoRA trained to take the attention from the concept's columns inside the masks."""
    generator = torch.Generator().manual_seed(seed)
    layers = {n: m for n, m in adapter.unet.named_modules() if is_key_or_value(f"{n}.weight")}
    lora = Adapters(layers, settings.rank, seed, deviation=1 / settings.rank)
    lora.require_gradients(True)
    optimiser = torch.optim.AdamW(lora.parameters, lr=settings.rate, weight_decay=settings.weight_decay)
    for _ in range(settings.steps):
        loss = _attention(adapter, lora, made, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lora.parameters, settings.clip)
        optimiser.step()
    lora.require_gradients(False)
    return lora


def _attention(adapter: Any, lora: Adapters, made: Pictures, generator: torch.Generator) -> torch.Tensor:
    """Sum over the layers of the norm of the concept's attention inside the mask."""
    p, k = (int(torch.randint(len(n), (1,), generator=generator)) for n in (made.prompts, made.masks))
    levels = adapter.sigmas()
    sigma = levels[torch.multinomial(timestep_weights(len(levels)), 1, generator=generator)]
    latent, mask, norms = made.latents[k : k + 1], made.masks[k], []

    def collect(layer, probabilities):
        chosen = probabilities[..., made.columns[p]]
        if mask is not None:
            inside = layer_mask(mask, chosen.shape[-2], *latent.shape[-2:])[0] > 0.5
            chosen = chosen[..., inside.to(chosen.device), :]
        if chosen.numel():
            norms.append(chosen.norm())

    noise = torch.randn(latent.shape, generator=generator)
    with lora.applied(), attention_probe(adapter.cross_attention(), collect):
        predicted(adapter, latent + sigma * noise, sigma, [made.prompts[p]])
    return torch.stack(norms).sum()
