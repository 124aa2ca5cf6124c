"""Random batches of noised reference latents, and the denoising loss on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..attention.masks import check_mask, mask_to_grid
from ..concepts.templates import fill_template
from ..model.protocol import ForgetModel
from ..model.tokens import PLACEHOLDER, EncodedPrompt, LearnedEmbedding
from ..model.transfer import send
from .references import References

SNR_LIMIT = 5.0


def denoising_loss(
    predicted: torch.Tensor, x0: torch.Tensor, sigma: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """MSE of the predicted x0, weighted by min(1 + 1 / sigma^2, 5), the weight of v-prediction, bounded at low noise.

    Parameters
    ----------
    predicted, x0
        Latents (B, C, h, w).
    sigma
        Noise levels (B,).
    mask
        Where the error counts, (B, 1, h, w) in 0..1; None counts all of it.
    """
    error = (predicted - x0) ** 2 * (1 + sigma**-2).clamp(max=SNR_LIMIT).view(-1, 1, 1, 1)
    if mask is None:
        return error.mean()
    return (error * mask).sum() / (mask.sum() * error.shape[1]).clamp_min(1e-6)


def encode_words(model: ForgetModel, template: str, words: str | LearnedEmbedding) -> EncodedPrompt:
    """Encodes a template with a text, or with learned vectors, in the place of its `{}`."""
    if isinstance(words, str):
        return model.encode([fill_template(template, words)])[0]
    return model.encode([fill_template(template, PLACEHOLDER)], [words])[0]


@dataclass
class NoisedBatch:
    """Noised reference latents, and the template of their prompt.

    Parameters
    ----------
    x0, x
        Clean and noised latents (B, C, h, w) on the model's device.
    sigma
        Noise levels (B,).
    mask
        Masks of the references on the latents' grid, (B, 1, h, w), or None.
    """

    x0: torch.Tensor
    x: torch.Tensor
    sigma: torch.Tensor
    mask: torch.Tensor | None
    template: str

    def prompt_loss(self, model: ForgetModel, prompt: EncodedPrompt) -> torch.Tensor:
        """The denoising loss under an encoded prompt, a scalar."""
        predicted = model.denoise(self.x, self.sigma, [prompt] * len(self.x)).float()
        return denoising_loss(predicted, self.x0, self.sigma, self.mask)

    def loss(self, model: ForgetModel, words: str | LearnedEmbedding) -> torch.Tensor:
        """The denoising loss, a scalar, of a text or of learned vectors in the batch's template."""
        return self.prompt_loss(model, encode_words(model, self.template, words))


class BatchSampler:
    """Draws batches of references, noise levels, noise and a template from a random generator."""

    def __init__(self, model: ForgetModel, references: References, templates: list[str], generator: torch.Generator):
        self.latents, self.templates, self.generator = references.latents, templates, generator
        self.sigmas, self.device = model.sigmas(), model.device
        self.masks = None if references.masks is None else self._grid_masks(references.masks)

    def _grid_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """Resizes masks (N or 1, H, W) to the latents' grid, (N, 1, h, w)."""
        h, w = self.latents.shape[-2:]
        return mask_to_grid(check_mask(masks), (h, w)).view(-1, 1, h, w).expand(len(self.latents), -1, -1, -1)

    def draw(self, count: int) -> NoisedBatch:
        """Draws a batch of `count` noised latents."""
        picked = torch.randint(len(self.latents), (count,), generator=self.generator)
        sigma = self.sigmas[torch.randint(len(self.sigmas), (count,), generator=self.generator)]
        x0 = self.latents[picked]
        x = x0 + sigma.view(-1, 1, 1, 1) * torch.randn(x0.shape, generator=self.generator)
        template = self.templates[int(torch.randint(len(self.templates), (1,), generator=self.generator))]
        masks = [] if self.masks is None else [self.masks[picked]]
        x0, x, sigma, *masks = send(self.device, x0, x, sigma, *masks)
        return NoisedBatch(x0, x, sigma, masks[0] if masks else None, template)
