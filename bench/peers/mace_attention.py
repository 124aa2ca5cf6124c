"""The LoRA that MACE trains for each concept to take the attention from it (arXiv 2403.06135)."""

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
    """Columns of a phrase in a prompt; `end_token` "all" adds the end tokens, as the released `use_pooler`."""
    ids = {encoder: [tokens] for encoder, tokens in adapter.phrase_tokens(phrase).items()}
    return concept_columns(prompt.tokens, ids, adapter.vocabulary, end_token)


def timestep_weights(count: int) -> torch.Tensor:
    """Weight xi(t) of each timestep, (T,), in concept-focal importance sampling."""
    t = torch.arange(count, dtype=torch.float64)
    return torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))


@dataclass
class TrainingPictures:
    """Encoded prompts with their concept columns, and latents with their masks (h, w) or None."""

    prompts: list[Any]
    columns: list[list[int]]
    latents: torch.Tensor
    masks: list[torch.Tensor | None]


def make_pictures(adapter: Any, concept: Forgotten, settings: Any, seed: int) -> TrainingPictures:
    """Pictures that the model draws of the concept, with masks from its attention, or without masks for styles."""
    prompts = adapter.encode([t.format(concept.phrase) for t in default_templates(concept.kind)[: settings.prompts]])
    columns = [phrase_columns(adapter, p, concept.phrase, "all") for p in prompts]
    first = prompts[:1] * settings.pictures
    latents = sample_seeds(adapter, first, adapter.latent_shape(), seed, settings.sampling_steps, settings.guidance)
    if concept.kind == "style":
        return TrainingPictures(prompts, columns, latents, [None] * len(latents))
    phrase, levels = phrase_columns(adapter, prompts[0], concept.phrase), noise_levels(adapter.sigmas(), 4, 0.5)
    with torch.no_grad():
        heats = [picture_attention(adapter, prompts[0], phrase, x[None], levels, seed=seed) for x in latents]
    return TrainingPictures(prompts, columns, latents, [mask_from_heat(heat, MaskSettings()) for heat in heats])


def train_lora(adapter: Any, pictures: TrainingPictures, settings: Any, seed: int) -> Adapters:
    """A LoRA trained to take the attention from the concept's columns inside the masks."""
    generator = torch.Generator().manual_seed(seed)
    layers = {n: m for n, m in adapter.unet.named_modules() if is_key_or_value(f"{n}.weight")}
    lora = Adapters(layers, settings.rank, seed, deviation=1 / settings.rank)
    lora.require_gradients(True)
    optimiser = torch.optim.AdamW(lora.parameters, lr=settings.rate, weight_decay=settings.weight_decay)
    for _ in range(settings.steps):
        loss = _attention_loss(adapter, lora, pictures, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lora.parameters, settings.clip)
        optimiser.step()
    lora.require_gradients(False)
    return lora


def _attention_loss(
    adapter: Any, lora: Adapters, pictures: TrainingPictures, generator: torch.Generator
) -> torch.Tensor:
    """Sum over the layers of the norm of the concept's attention inside the mask."""
    p, k = (int(torch.randint(len(n), (1,), generator=generator)) for n in (pictures.prompts, pictures.masks))
    levels = adapter.sigmas()
    sigma = levels[torch.multinomial(timestep_weights(len(levels)), 1, generator=generator)]
    latent, mask, norms = pictures.latents[k : k + 1], pictures.masks[k], []

    def collect(layer, probabilities):
        attention = probabilities[..., pictures.columns[p]]
        if mask is not None:
            inside = layer_mask(mask, attention.shape[-2], *latent.shape[-2:])[0] > 0.5
            attention = attention[..., inside.to(attention.device), :]
        if attention.numel():
            norms.append(attention.norm())

    noise = torch.randn(latent.shape, generator=generator)
    with lora.applied(), attention_probe(adapter.cross_attention(), collect):
        predicted(adapter, latent + sigma * noise, sigma, [pictures.prompts[p]])
    return torch.stack(norms).sum()
