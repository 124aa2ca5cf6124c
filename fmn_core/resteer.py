"""Attention re-steering by gradient: Algorithm 1 of Forget-Me-Not, on low-rank factors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from .attention import attention_mass
from .closed_form import rounded
from .concept import Concept
from .errors import ForgetError
from .hooks import LowRank, attention_probe, injected
from .model import CrossAttention, ForgetModel
from .patch import Factors, ForgetPatch, fingerprint, kohya_name
from .preserve import preserve_groups
from .tokens import END_TOKEN_CHOICES, EncodedPrompt, concept_columns

PROJECTIONS = {"values": ("to_v",), "keys and values": ("to_k", "to_v"), "attn2": ("to_q", "to_k", "to_v", "to_out.0")}
TRAIN_CHOICES = (*PROJECTIONS, "whole UNet")
AUTO_RATE = 0.0
PUBLISHED_RATE = 2e-6  # of full weights, for Stable Diffusion
SMALL_MODEL_RATE = 1e-2  # of factors, measured on models with a conditioning narrower than SD's
# On the miniature, fifty times as much forgets nothing, and none at all loses the other concepts.
PRESERVATION_SCALE = 0.2
LOSS_FORMS = ("paper", "released code")


@dataclass
class ResteerSettings:
    """Algorithm 1's settings; learning rate is that of the factors, 0 = auto (see auto_learning_rate).

    `target_mass`: stop when the mean attention mass on the concept falls below this share of where it started, 0 = never.
    `preservation`: weight of the squared relative movement of preserve prompts' keys and values, in units of
    PRESERVATION_SCALE times the first L_attn.
    """

    train: str = "keys and values"
    loss: str = "paper"
    end_token: str = "first"
    steps: int = 35
    learning_rate: float = AUTO_RATE
    rank: int = 8
    seed: int = 0
    clip: float = 1.0
    weight_decay: float = 0.01
    preservation: float = 1.0
    target_mass: float = 0.0
    preserve_prompts: list[str] = field(default_factory=list)
    use_everyday_captions: bool = True


@dataclass
class Step:
    """What a training step reports: its loss and the concept's attention mass."""

    number: int
    loss: float
    mass: float


def attention_loss(columns: list[torch.Tensor], form: str) -> torch.Tensor:
    """L_attn over the concept's columns A_k[:, I] of all layers, each (..., pixels, |I|).

    "paper": sum_k sum a^2 (eq. 7, Algorithm 1). "released code": one un-squared norm over all layers.
    """
    total = torch.stack([(a**2).sum() for a in columns]).sum()
    return total if form == "paper" else total.clamp_min(1e-20).sqrt()


def auto_learning_rate(context_dim: int, rank: int) -> float:
    """The rate of the factors that moves weights as fast as the published rate moves full weights.

    AdamW moves every entry by about its rate per step. An entry of up @ down then moves by rate * sqrt(rank) times the
    size of an entry of `down`, which is uniform with variance 1 / (3 in). Narrow models get a measured rate instead.
    """
    if context_dim < 768:
        return SMALL_MODEL_RATE
    return PUBLISHED_RATE * math.sqrt(3 * context_dim / rank)


def check_settings(settings: ResteerSettings) -> None:
    """Raises ForgetError on the first setting that cannot be used."""
    choices = {"train": TRAIN_CHOICES, "loss": LOSS_FORMS, "end_token": END_TOKEN_CHOICES}
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise ForgetError(f"Expected {name} to be one of {', '.join(allowed)}, got {getattr(settings, name)!r}.")
    for name, least in (("steps", 1), ("rank", 1), ("learning_rate", 0.0), ("clip", 1e-12)):
        if getattr(settings, name) < least:
            raise ForgetError(f"Expected {name} of at least {least}, got {getattr(settings, name)}. Raise it.")


@dataclass
class Prompts:
    """Encoded prompts that hold the concept, with their columns I, and the contexts to preserve (n, dim)."""

    encoded: list[EncodedPrompt]
    columns: list[list[int]]
    preserve: torch.Tensor


def prepare_prompts(model: ForgetModel, concepts: list[Concept], settings: ResteerSettings) -> Prompts:
    """Encodes every template with every phrase once; raises ForgetError when a phrase is not found in its prompt."""
    encoded, columns = [], []
    for concept in concepts:
        for phrase in concept.phrases:
            ids = {encoder: [tokens] for encoder, tokens in model.phrase_tokens(phrase).items()}
            for prompt in model.encode([t.format(phrase) for t in concept.templates]):
                found = concept_columns(prompt.tokens, ids, model.vocabulary, settings.end_token)
                if not found:
                    raise ForgetError(
                        f"Phrase {phrase!r} was not found in the prompt {prompt.text!r}. Put spaces around {{}} in the template."
                    )
                encoded.append(prompt)
                columns.append(found)
    groups = preserve_groups(model, concepts, settings.preserve_prompts, settings.use_everyday_captions)
    kept = model.encode([text for group in groups for text in group])
    return Prompts(encoded, columns, torch.cat([p.context for p in kept]))


def trained_layers(model: ForgetModel, train: str) -> dict[str, torch.nn.Module]:
    """Diffusers path -> module of every layer that gets factors."""
    if train == "whole UNet":
        return dict(sorted(model.linear_layers().items()))
    return {f"{layer.name}.{p}": layer.projections[p] for layer in model.cross_attention() for p in PROJECTIONS[train]}


class Preservation:
    """|(W' - W) P^T|^2 / |W P^T|^2, mean over the trained keys and values."""

    def __init__(self, model: ForgetModel, factors: dict[str, LowRank], preserve: torch.Tensor):
        rows = preserve.double()
        self.moment = (rows.T @ rows / len(rows)).float().to(model.device)
        self.terms = []
        for layer in model.cross_attention():
            for projection in ("to_k", "to_v"):
                factor = factors.get(f"{layer.name}.{projection}")
                if factor is not None:
                    w = model.weight(layer.name, projection).to(model.device)
                    self.terms.append((factor, ((w @ self.moment) * w).sum()))

    def __call__(self) -> torch.Tensor:
        if not self.terms:
            return torch.zeros(())
        parts = []
        for factor, scale in self.terms:
            delta = factor.up @ factor.down
            parts.append(((delta @ self.moment) * delta).sum() / scale)
        return torch.stack(parts).mean()


class Trainer:
    """Holds one training: factors, optimiser and the single random generator everything is drawn from."""

    def __init__(self, model: ForgetModel, concepts: list[Concept], settings: ResteerSettings, latents: torch.Tensor):
        self.model, self.settings, self.latents = model, settings, latents
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.prompts = prepare_prompts(model, concepts, settings)
        self.layers = trained_layers(model, settings.train)
        self.factors = {n: LowRank(m, settings.rank, self.generator, model.device) for n, m in self.layers.items()}
        self.parameters = [p for f in self.factors.values() for p in f.parameters()]
        self.rate = settings.learning_rate or auto_learning_rate(self.prompts.preserve.shape[1], settings.rank)
        self.optimiser = torch.optim.AdamW(self.parameters, lr=self.rate, weight_decay=settings.weight_decay)
        self.preservation = Preservation(model, self.factors, self.prompts.preserve)
        self.sigmas = model.sigmas()
        self.scale: float | None = None  # brings the preservation term to the size of the first L_attn

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Noised latent, its sigma and a prompt number: t, e, r, c of Algorithm 1."""

        def pick(n: int) -> int:
            return int(torch.randint(n, (1,), generator=self.generator))

        sigma = self.sigmas[pick(len(self.sigmas))].reshape(1)
        x0 = self.latents[pick(len(self.latents))][None]
        x = x0 + sigma.view(1, 1, 1, 1) * torch.randn(x0.shape, generator=self.generator)
        return x.to(self.model.device), sigma.to(self.model.device), pick(len(self.prompts.encoded))

    def attention(self) -> list[torch.Tensor]:
        """One UNet pass on a drawn sample; the probabilities of the concept's columns in every layer."""
        x, sigma, number = self.draw()
        columns, collected = self.prompts.columns[number], []

        def receive(layer: CrossAttention, probabilities: torch.Tensor) -> None:
            collected.append(probabilities[..., columns])

        with injected(self.layers, self.factors), attention_probe(self.model.cross_attention(), receive):
            self.model.denoise(x, sigma, [self.prompts.encoded[number]])
        return collected

    def step(self, number: int) -> Step:
        """One step of Algorithm 1. Raises ForgetError when the loss is not finite."""
        attention = self.attention()
        steering = attention_loss(attention, self.settings.loss)
        if self.scale is None:
            self.scale = PRESERVATION_SCALE * float(steering.detach())
        loss = steering + self.settings.preservation * self.scale * self.preservation()
        if not torch.isfinite(loss):
            raise ForgetError(
                f"Expected a finite loss, got {loss.item()} at step {number + 1}. Lower the learning rate; nothing was saved."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimiser.step()
        mass = torch.stack([attention_mass(a, list(range(a.shape[-1]))) for a in attention]).mean()
        return Step(number, float(loss.detach()), float(mass.detach()))

    def patch_factors(self) -> dict[str, Factors]:
        return {
            kohya_name(n): Factors(f.up.detach().cpu(), f.down.detach().cpu(), float(self.settings.rank))
            for n, f in self.factors.items()
        }


def forget_by_resteering(
    model: ForgetModel,
    concepts: list[Concept],
    latents: torch.Tensor,
    settings: ResteerSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
) -> ForgetPatch:
    """Trains factors that turn the concept's attention away (Algorithm 1; eq. 7).

    `latents`: reference latents (N, C, h, w) in the model's scale, or zeros where there are no images (`no_real_image`
    of the released code). `progress(done, total, figures)` is called every step and may raise to interrupt. Everything
    random is drawn from one generator, so one seed gives one patch. Raises ForgetError on settings out of range, a
    phrase that is not found, and a loss that is not finite. The model must allow gradients.
    """
    settings = settings or ResteerSettings()
    check_settings(settings)
    started, history = time.perf_counter(), []
    trainer = Trainer(model, concepts, settings, latents)
    recent = None
    for number in range(settings.steps):
        step = trainer.step(number)
        history.append(step)
        recent = step.mass if recent is None else 0.7 * recent + 0.3 * step.mass
        if progress is not None:
            progress(number + 1, settings.steps, {"loss": step.loss, "mass": step.mass})
        if settings.target_mass > 0 and number >= 4 and recent < settings.target_mass * history[0].mass:
            break
    figures = {
        "steps": len(history),
        "learning_rate": trainer.rate,
        "losses": [s.loss for s in history],
        "mass": [s.mass for s in history],
        "preserve_drift": float(trainer.preservation().detach().sqrt()),
        "seconds": time.perf_counter() - started,
    }
    base = fingerprint(model)
    return ForgetPatch(
        trainer.patch_factors(),
        [c.as_dict() for c in concepts],
        base,
        {"method": "attention re-steering", **asdict(settings)},
        rounded(figures),
    )
