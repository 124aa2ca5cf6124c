"""Concept inversion (textual inversion): learns token embeddings from images of a concept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..concepts.concept import check_embedding
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.token_table import mean_embedding, mean_norm, token_rows, widths
from ..model.tokens import EncodedPrompt, LearnedEmbedding
from ..options import option, options
from .loss_scale import LossScale
from .noised_batches import BatchSampler, encode_words
from .references import References
from .settings import MOST_SEED, SEED_HELP

Start = Literal["words", "noise", "mean"]
START_CHOICES: tuple[Start, ...] = get_args(Start)
CONTINUED_RATE = 1e-4  # of the released code, for continuation


@options
class InversionSettings:
    """Settings of textual inversion. The defaults are those of the released code."""

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
    """The learned vectors, and the figures of their training: steps, losses and seconds."""

    embedding: LearnedEmbedding
    figures: dict[str, Any]


def starting_vectors(model: ForgetModel, settings: InversionSettings) -> LearnedEmbedding:
    """The vectors that training starts from, (tokens, width) per text encoder.

    Raises
    ------
    ForgetError
        On words without tokens.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    ids = model.vector_tokens(settings.words) if settings.start == "words" else {}
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
            word_vectors = token_rows(table, ids[name][: settings.tokens])
            vectors[: len(word_vectors)] = word_vectors
        start[name] = vectors.clone()
    return start


class Inverter:
    """One inversion: the vectors, their optimiser, and the only random generator."""

    def __init__(
        self,
        model: ForgetModel,
        references: References,
        templates: list[str],
        settings: InversionSettings,
        start: LearnedEmbedding | None,
    ):
        self.model, self.settings = model, settings
        initial = start if start is not None else starting_vectors(model, settings)
        check_embedding(initial, widths(model.token_embeddings()))
        self.embedding = {name: torch.nn.Parameter(v.detach().float().clone()) for name, v in initial.items()}
        self.norms = {name: mean_norm(table) for name, table in model.token_embeddings().items()}
        self.optimiser = torch.optim.AdamW(list(self.embedding.values()), lr=settings.learning_rate, weight_decay=0.0)
        warmup = settings.warmup
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda k: min(1.0, (k + 1) / warmup) if warmup else 1.0
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.loss_scale = LossScale(model.compute_dtype())
        self.batches = BatchSampler(model, references, templates, self.generator)

    def encoded(self, template: str) -> EncodedPrompt:
        """Encodes a template with the vectors in their present state, with gradients."""
        return encode_words(self.model, template, dict(self.embedding))

    def loss(self) -> torch.Tensor:
        """The denoising loss, a scalar, on a new batch."""
        batch = self.batches.draw(self.settings.batch)
        return batch.prompt_loss(self.model, self.encoded(batch.template))

    def step(self) -> float:
        """Runs one step and returns its loss; raises ForgetError when the loss or its gradient is not finite."""
        generator_state = self.generator.get_state()
        loss = self.loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ForgetError(
                "Expected a finite loss, got NaN or infinity. Lower the learning rate, or use fp32; nothing was saved."
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.loss_scale.scaled(loss).backward()
        if self.loss_scale.enabled and not self._unscale_gradients():
            self.generator.set_state(generator_state)
            return self.step()
        self.optimiser.step()
        self._pull_norms()
        self.schedule.step()
        return value

    def _unscale_gradients(self) -> bool:
        """Unscales the gradients. Returns False where they overflowed, after which the step has to be repeated at a smaller loss scale."""
        vectors = list(self.embedding.values())
        self.loss_scale.unscale(vectors)
        if all(torch.isfinite(v.grad).all() for v in vectors if v.grad is not None):
            self.loss_scale.keep()
            return True
        if not self.loss_scale.reduce():
            raise ForgetError("Expected finite gradients, got NaN or infinity. Use fp32; nothing was saved.")
        return False

    @torch.no_grad()
    def _pull_norms(self) -> None:
        """Moves the norms of the vectors towards the vocabulary's mean norm."""
        pull = self.settings.weight_decay * self.optimiser.param_groups[0]["lr"] / self.settings.learning_rate
        for name, vectors in self.embedding.items():
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
    """Learns the vectors with which the frozen model denoises the references best.

    Parameters
    ----------
    model
        It must allow gradients through its text encoder.
    templates
        Prompts with one `{}` where the vectors stand.
    start
        Vectors to continue from.
    progress
        Called every step as progress(done, total, figures). It may raise to interrupt. Returning True ends the inversion and keeps the
        vectors learned so far.

    Raises
    ------
    ForgetError
        On settings out of range, vectors that do not fit, an empty mask, and a loss that is not finite.

    Notes
    -----
    Source: FMN, section 3.4; Gal et al., An Image is Worth One Word.
    """
    settings = settings or InversionSettings()
    started, losses = time.perf_counter(), []
    inverter = Inverter(model, references, templates, settings, start)
    for number in range(settings.steps):
        losses.append(inverter.step())
        if progress is not None and progress(number + 1, settings.steps, {"loss": losses[-1]}):
            break
    embedding = {name: v.detach().clone() for name, v in inverter.embedding.items()}
    return Inversion(embedding, {"steps": len(losses), "losses": losses, "seconds": time.perf_counter() - started})
