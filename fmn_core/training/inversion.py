"""Concept inversion (textual inversion): images -> token embeddings that make the model draw what they show."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..attention.masks import check_mask, mask_to_grid
from ..concepts.concept import check_embedding
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.token_table import mean_embedding, mean_norm, token_rows, widths
from ..model.tokens import PLACEHOLDER, EncodedPrompt, LearnedEmbedding
from ..model.transfer import send
from ..options import option, options
from .loss_scale import LossScale
from .references import References
from .settings import MOST_SEED, SEED_HELP

Start = Literal["words", "noise", "mean"]
START_CHOICES: tuple[Start, ...] = get_args(Start)
CONTINUED_RATE = 1e-4  # the released code's for continuation
SNR_LIMIT = 5.0


@options
class InversionSettings:
    """Settings of textual inversion; the defaults are the released code's."""

    tokens: int = option(default=4, help="Vectors to learn. Published: 4.", minimum=1, maximum=32)
    start: Start = option(
        default="words",
        help="Start from words, from noise as large as the vocabulary's vectors, or from the vocabulary's mean.",
    )
    words: str = option(default="", help="Words that describe the pictures, to start from.")
    steps: int = option(default=500, help="Steps of the inversion. Published: 500.", minimum=1, maximum=100_000)
    warmup: int = option(
        default=100, help="Steps over which the learning rate rises. Published: 100.", minimum=0, maximum=100_000
    )
    learning_rate: float = option(
        default=1e-3,
        help="Learning rate of the inversion. Published: 1e-3, to continue 1e-4.",
        minimum=1e-7,
        maximum=1.0,
        step=1e-7,
    )
    weight_decay: float = option(
        default=0.1,
        help="Pull of the vectors' norms to those of the vocabulary. Published: 0.1.",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
    )
    batch: int = option(default=1, help="Draws per step of the inversion. Published: 1.", minimum=1, maximum=64)
    seed: int = option(default=0, help=SEED_HELP, minimum=0, maximum=MOST_SEED)


@dataclass
class Inversion:
    """The learned vectors and what was measured on the way."""

    word: LearnedEmbedding
    figures: dict[str, Any]


def starting_vectors(model: ForgetModel, settings: InversionSettings) -> LearnedEmbedding:
    """The vectors that training starts from, (tokens, width) per text encoder. Raises ForgetError on words without tokens."""
    generator = torch.Generator().manual_seed(settings.seed)
    ids = model.phrase_tokens(settings.words) if settings.start == "words" else {}
    if settings.start == "words" and not all(ids.values()):
        raise ForgetError(
            "Expected words to start from, got none. Type what the images show, or start from noise or mean."
        )
    start = {}
    for name, table in model.token_embeddings().items():
        if settings.start == "mean":
            vectors = mean_embedding(table).repeat(settings.tokens, 1)
        else:
            noise = torch.randn(settings.tokens, table.shape[1], generator=generator)
            vectors = torch.nn.functional.normalize(noise, dim=1) * mean_norm(table)
        if settings.start == "words":
            known = token_rows(table, ids[name][: settings.tokens])
            vectors[: len(known)] = known
        start[name] = vectors.clone()
    return start


def denoising_loss(
    predicted: torch.Tensor, x0: torch.Tensor, sigma: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """MSE of the predicted x0, weighted by min(1 + 1 / sigma^2, 5): v-prediction's weight, bounded at low noise.

    predicted, x0: (B, C, h, w); sigma (B,); mask (B, 1, h, w) or None.
    """
    error = (predicted - x0) ** 2 * (1 + sigma**-2).clamp(max=SNR_LIMIT).view(-1, 1, 1, 1)
    if mask is None:
        return error.mean()
    return (error * mask).sum() / (mask.sum() * error.shape[1]).clamp_min(1e-6)


class Inverter:
    """Holds one inversion: vectors, optimiser and the single generator everything is drawn from."""

    def __init__(
        self,
        model: ForgetModel,
        references: References,
        templates: list[str],
        settings: InversionSettings,
        start: LearnedEmbedding | None,
    ):
        self.model, self.references, self.templates, self.settings = model, references, templates, settings
        word = start if start is not None else starting_vectors(model, settings)
        check_embedding(word, widths(model.token_embeddings()))
        self.word = {name: torch.nn.Parameter(v.detach().float().clone()) for name, v in word.items()}
        self.norms = {name: mean_norm(table) for name, table in model.token_embeddings().items()}
        self.optimiser = torch.optim.AdamW(list(self.word.values()), lr=settings.learning_rate, weight_decay=0.0)
        warmup = settings.warmup
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda k: min(1.0, (k + 1) / warmup) if warmup else 1.0
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.loss_scale = LossScale(model.compute_dtype())
        self.sigmas = model.sigmas()
        self.masks = self._grid_masks()

    def _grid_masks(self) -> torch.Tensor | None:
        """The masks on the latents' grid, (N, 1, h, w)."""
        if self.references.masks is None:
            return None
        h, w = self.references.latents.shape[-2:]
        masks = mask_to_grid(check_mask(self.references.masks), (h, w)).view(-1, 1, h, w)
        return masks.expand(len(self.references.latents), -1, -1, -1)

    def encoded(self, template: str) -> EncodedPrompt:
        """A template with the vectors as they are now, with gradients."""
        return self.model.encode([fill_template(template, PLACEHOLDER)], [dict(self.word)])[0]

    def loss(self) -> torch.Tensor:
        """The denoising loss, a scalar, on `batch` draws of a reference, noise and a template."""
        s, latents = self.settings, self.references.latents
        picked = torch.randint(len(latents), (s.batch,), generator=self.generator)
        sigma = self.sigmas[torch.randint(len(self.sigmas), (s.batch,), generator=self.generator)]
        x0 = latents[picked]
        x = x0 + sigma.view(-1, 1, 1, 1) * torch.randn(x0.shape, generator=self.generator)
        template = self.templates[int(torch.randint(len(self.templates), (1,), generator=self.generator))]
        masks = [] if self.masks is None else [self.masks[picked]]
        x, x0, sigma, *masks = send(self.model.device, x, x0, sigma, *masks)
        predicted = self.model.denoise(x, sigma, [self.encoded(template)] * s.batch).float()
        return denoising_loss(predicted, x0, sigma, masks[0] if masks else None)

    def step(self) -> float:
        """One step; returns its loss. Raises ForgetError when it is not finite."""
        drawn_from = self.generator.get_state()
        loss = self.loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ForgetError(
                "Expected a finite loss, got NaN or infinity. Lower the learning rate, or use fp32; nothing was saved."
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.loss_scale.scaled(loss).backward()
        if self.loss_scale.enabled and not self._unscaled():
            self.generator.set_state(drawn_from)
            return self.step()
        self.optimiser.step()
        self._pull_norms()
        self.schedule.step()
        return value

    def _unscaled(self) -> bool:
        """Takes the loss scale out of the gradients; False where they overflowed, and the step has to be repeated with a smaller one."""
        vectors = list(self.word.values())
        self.loss_scale.unscale(vectors)
        if all(torch.isfinite(v.grad).all() for v in vectors if v.grad is not None):
            self.loss_scale.keep()
            return True
        if not self.loss_scale.reduce():
            raise ForgetError("Expected finite gradients, got NaN or infinity. Use fp32; nothing was saved.")
        return False

    @torch.no_grad()
    def _pull_norms(self) -> None:
        pull = self.settings.weight_decay * self.optimiser.param_groups[0]["lr"] / self.settings.learning_rate
        for name, vectors in self.word.items():
            norm = vectors.norm(dim=1, keepdim=True)
            vectors.mul_((norm + pull * (self.norms[name] - norm)) / norm.clamp_min(1e-12))


def invert_concept(
    model: ForgetModel,
    references: References,
    templates: list[str],
    settings: InversionSettings | None = None,
    start: LearnedEmbedding | None = None,
    progress: Callable[[int, int, dict], bool | None] | None = None,
) -> Inversion:
    """Learns vectors with which the model, everything in it frozen, denoises the references best.

    `templates` have one `{}` where the vectors stand. `start` continues from existing vectors. `progress(done, total,
    figures)` is called every step, may raise to interrupt, and ends the inversion with what was learned so far by returning True. The model must allow gradients through its text encoder.
    Raises ForgetError on settings out of range, vectors that do not fit, a mask that is empty, and a loss that is not
    finite. Source: FMN, section 3.4; Gal et al., An Image is Worth One Word.
    """
    settings = settings or InversionSettings()
    started, losses = time.perf_counter(), []
    inverter = Inverter(model, references, templates, settings, start)
    for number in range(settings.steps):
        losses.append(inverter.step())
        if progress is not None and progress(number + 1, settings.steps, {"loss": losses[-1]}):
            break
    word = {name: v.detach().clone() for name, v in inverter.word.items()}
    return Inversion(word, {"steps": len(losses), "losses": losses, "seconds": time.perf_counter() - started})
