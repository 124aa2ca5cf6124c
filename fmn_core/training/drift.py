"""Drift monitor: measures how far the model's predictions for preserve prompts have moved."""

from __future__ import annotations

import torch

from ..model.protocol import ForgetModel
from ..model.tokens import EncodedPrompt
from ..model.transfer import send

# Shares of the training timesteps; the composition of a picture is decided at high noise.
LEVELS = (0.5, 0.8)
PROMPTS = 4


class DriftMonitor:
    """Mean squared change of the predicted x0 of preserve prompts, relative to the predictions' variance.

    Parameters
    ----------
    prompts
        Encoded preserve prompts, of which PROMPTS are used.
    size
        Shape (C, h, w) of a latent.

    Notes
    -----
    The reference is the prediction at the time the monitor is made. The noise is the same every time.
    """

    def __init__(self, model: ForgetModel, prompts: list[EncodedPrompt], size: tuple[int, int, int], seed: int = 0):
        self.model = model
        probes = prompts[:: max(1, len(prompts) // PROMPTS)][:PROMPTS]
        sigmas = model.sigmas()
        self.prompts = [p for p in (prompt.to(model.device) for prompt in probes) for _ in LEVELS]
        sigma = torch.stack([sigmas[int(level * (len(sigmas) - 1))] for _ in probes for level in LEVELS])
        noise = torch.randn(len(self.prompts), *size, generator=torch.Generator().manual_seed(seed))
        self.x, self.sigma = send(model.device, noise * (1 + sigma**2).sqrt().view(-1, 1, 1, 1), sigma)
        self.reference = self._predict()
        self.variance = self.reference.var().clamp_min(1e-12)

    @torch.no_grad()
    def _predict(self) -> torch.Tensor:
        inputs = zip(self.x.split(1), self.sigma.split(1), self.prompts)
        return torch.cat([self.model.denoise(x, sigma, [prompt]).float() for x, sigma, prompt in inputs])

    def __call__(self) -> float:
        """Measures the drift: 0 is unmoved, 1 is as far as unrelated predictions."""
        return float(((self._predict() - self.reference) ** 2).mean() / self.variance)
