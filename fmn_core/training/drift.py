"""Drift monitor: how far the model's predictions for preserve prompts have moved."""

from __future__ import annotations

import torch

from ..model.protocol import ForgetModel
from ..model.tokens import EncodedPrompt
from ..model.transfer import send

# Where along the training timesteps to look: composition is decided at high noise.
LEVELS = (0.5, 0.8)
PROMPTS = 4


class DriftMonitor:
    """MSE of the denoised prediction of preserve prompts, same noise, relative to the prediction's own variance.

    `size`: (C, h, w) of the latents. The prediction of the model as it is when the monitor is made is the reference.
    """

    def __init__(self, model: ForgetModel, prompts: list[EncodedPrompt], size: tuple[int, int, int], seed: int = 0):
        self.model = model
        chosen = prompts[:: max(1, len(prompts) // PROMPTS)][:PROMPTS]
        sigmas = model.sigmas()
        self.prompts = [p for p in (prompt.to(model.device) for prompt in chosen) for _ in LEVELS]
        sigma = torch.stack([sigmas[int(level * (len(sigmas) - 1))] for _ in chosen for level in LEVELS])
        noise = torch.randn(len(self.prompts), *size, generator=torch.Generator().manual_seed(seed))
        self.x, self.sigma = send(model.device, noise * (1 + sigma**2).sqrt().view(-1, 1, 1, 1), sigma)
        self.reference = self._predict()
        self.variance = self.reference.var().clamp_min(1e-12)

    @torch.no_grad()
    def _predict(self) -> torch.Tensor:
        ones = zip(self.x.split(1), self.sigma.split(1), self.prompts)
        return torch.cat([self.model.denoise(x, sigma, [prompt]).float() for x, sigma, prompt in ones])

    def __call__(self) -> float:
        """The drift now: 0 is unmoved, 1 as far as unrelated predictions."""
        return float(((self._predict() - self.reference) ** 2).mean() / self.variance)
