"""A diffusion classifier for the meanings of a word: the untouched model tells which one a picture shows."""

from __future__ import annotations

import torch

from ..concepts.concept import Concept, Name
from ..concepts.templates import fill_template
from ..model.protocol import ForgetModel
from ..model.sampler import sample_seeds, seeded_noise
from ..model.tokens import EncodedPrompt

# Shares of the training timesteps at which prompts are compared; a picture's content is decided there.
LEVELS = (0.4, 0.55, 0.7, 0.85)


def sample_word(
    model: ForgetModel, word: str, templates: list[str], size: tuple[int, int, int], count: int, seed: int = 0
) -> torch.Tensor:
    """Samples pictures of a word with the templates in turn: latents (count, C, h, w). One seed gives the same noise."""
    prompts = model.encode([fill_template(templates[k % len(templates)], word) for k in range(count)])
    return sample_seeds(model, prompts, size, seed)


@torch.no_grad()
def denoising_errors(model: ForgetModel, latent: torch.Tensor, prompts: list[EncodedPrompt], seed: int) -> torch.Tensor:
    """Error of the predicted x0 of a latent (C, h, w) under each prompt, with the same noise: (prompts,)."""
    sigmas, errors = model.sigmas(), torch.zeros(len(prompts))
    for number, level in enumerate(LEVELS):
        sigma = sigmas[int(level * (len(sigmas) - 1))]
        x = latent + sigma * seeded_noise((latent.shape[0], latent.shape[1], latent.shape[2]), 1000 * seed + number)
        for k, prompt in enumerate(prompts):
            predicted = model.denoise(x[None].to(model.device), sigma.reshape(1).to(model.device), [prompt])
            errors[k] += float(((predicted[0].float().cpu() - latent) ** 2).mean())
    return errors


def dominant_share(
    model: ForgetModel, latents: torch.Tensor, dominant: Concept, contexts: list[str], templates: list[str]
) -> float:
    """Share of pictures that the model denoises better as the dominant meaning than as any of the contexts, 0..1.

    Parameters
    ----------
    model
        The untouched model.
    latents
        Latents (N, C, h, w) of the pictures, the k-th drawn with the k-th template.

    Notes
    -----
    Source: Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier.
    """
    names = [*dominant.names(), *(Name(context) for context in contexts)]
    dominant_names, dominant_count = len(dominant.names()), 0
    for k, latent in enumerate(latents):
        template = templates[k % len(templates)]
        prompts = model.encode([fill_template(template, n.text) for n in names], [n.embedding for n in names])
        errors = denoising_errors(model, latent, prompts, k)
        dominant_count += bool(errors[:dominant_names].min() < errors[dominant_names:].min())
    return dominant_count / len(latents)
