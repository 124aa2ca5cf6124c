"""Forgetting by gradient: attention re-steering (Algorithm 1 of Forget-Me-Not) and the visual denoising loss."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch

from .attention import attention_mass
from .closed_form import rounded
from .concept import Concept, check_concepts, name_tokens
from .drift import DriftMonitor
from .errors import ForgetError
from .hooks import attention_probe, checkpointed
from .losses import LOSS_FORMS, VISUAL_WEIGHTINGS, Preservation, attention_loss, visual_loss, visual_scale
from .masks import layer_mask
from .model import CrossAttention, ForgetModel
from .patch import Factors, ForgetPatch, fingerprint, kohya_name
from .preserve import preserve_groups
from .references import Pairs, References
from .tokens import EncodedPrompt, concept_columns
from .trainable import WEIGHT_FORMS, injected, trainable

PROJECTIONS = {"values": ("to_v",), "keys and values": ("to_k", "to_v"), "attn2": ("to_q", "to_k", "to_v", "to_out.0")}
TRAIN_CHOICES = (*PROJECTIONS, "whole UNet")
OPTIMISERS = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "RAdam": torch.optim.RAdam,
    "Adafactor": torch.optim.Adafactor,
    "SGD": torch.optim.SGD,
}
SCHEDULES = ("constant", "linear", "cosine")
AUTO_RATE = 0.0
PUBLISHED_RATE = 2e-6  # of full weights, for Stable Diffusion
SMALL_MODEL_RATE = 1e-2  # of factors of rank 8, measured on models with a conditioning narrower than SD's
# On the miniature, fifty times as much forgets nothing, and none at all loses the other concepts.
PRESERVATION_SCALE = 0.2
GOOD_STATE_EVERY = 5


@dataclass
class GradientSettings:
    """What can be chosen; the defaults are Algorithm 1 on LoRA factors.

    `attention_weight`, `visual_weight`: w_attn and w_vis of L = w_attn L_attn + w_vis L_vis, each loss divided by what it begins
    with when both are used: the attention loss by its first value, the visual loss by visual_scale. `visual_weighting`
    and `first_level`..`last_level` (shares of the training timesteps, 0 = clean): which noise levels count. `learning_rate`: 0 = auto (see auto_learning_rate). `preservation`: weight of the squared
    relative movement of preserve prompts' keys and values, in units of PRESERVATION_SCALE times what the loss begins with.
    `target_mass`: stop when the mean attention mass on the concept falls below this share of where it started, 0 = never.
    `drift_every`, `drift_warning`, `drift_limit`: steps between two looks at the drift monitor, and at what drift to warn
    and to stop; 0 = never.
    """

    train: str = "keys and values"
    weights: str = "LoRA"
    loss: str = "paper"
    attention_weight: float = 1.0
    visual_weight: float = 0.0
    visual_weighting: str = "min-SNR"
    first_level: float = 0.0
    last_level: float = 1.0
    steps: int = 35
    accumulation: int = 1
    learning_rate: float = AUTO_RATE
    optimiser: str = "AdamW"
    schedule: str = "constant"
    weight_decay: float = 0.01
    clip: float = 1.0
    rank: int = 8
    seed: int = 0
    checkpointing: bool = False
    preservation: float = 1.0
    target_mass: float = 0.0
    drift_every: int = 10
    drift_warning: float = 0.05
    drift_limit: float = 0.0
    preserve_prompts: list[str] = field(default_factory=list)
    use_everyday_captions: bool = True


@dataclass
class Step:
    """What a training step reports: its loss and the concept's attention mass."""

    number: int
    loss: float
    mass: float


def auto_learning_rate(context_dim: int, settings: GradientSettings) -> float:
    """The rate that moves weights as fast as the published rate moves full weights.

    AdamW moves every entry by about its rate per step. An entry of up @ down then moves by rate * sqrt(rank) times the
    size of an entry of `down`, which is uniform with variance 1 / (3 in). Narrow models get a measured pace instead.
    """
    if settings.weights == "full delta":
        return PUBLISHED_RATE if context_dim >= 768 else SMALL_MODEL_RATE * math.sqrt(8 / (3 * context_dim))
    if context_dim < 768:
        return SMALL_MODEL_RATE * math.sqrt(8 / settings.rank)
    return PUBLISHED_RATE * math.sqrt(3 * context_dim / settings.rank)


def check_settings(settings: GradientSettings) -> None:
    """Raises ForgetError on the first setting that cannot be used."""
    choices = {
        "train": TRAIN_CHOICES,
        "weights": WEIGHT_FORMS,
        "loss": LOSS_FORMS,
        "visual_weighting": VISUAL_WEIGHTINGS,
        "optimiser": tuple(OPTIMISERS),
        "schedule": SCHEDULES,
    }
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise ForgetError(f"Expected {name} to be one of {', '.join(allowed)}, got {getattr(settings, name)!r}.")
    least = {"steps": 1, "rank": 1, "accumulation": 1, "learning_rate": 0.0, "clip": 1e-12, "drift_every": 0}
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise ForgetError(f"Expected {name} of at least {smallest}, got {getattr(settings, name)}. Raise it.")
    if settings.attention_weight <= 0 and settings.visual_weight <= 0:
        raise ForgetError(
            "Expected a loss with a weight above 0, got 0 for both. Raise attention_weight or visual_weight."
        )
    if not 0 <= settings.first_level < settings.last_level <= 1:
        raise ForgetError(
            f"Expected noise levels 0 <= first_level < last_level <= 1, got {settings.first_level} and {settings.last_level}."
        )


@dataclass
class PromptSet:
    """A concept's encoded prompts, with the columns I of each."""

    encoded: list[EncodedPrompt]
    columns: list[list[int]]


def concept_prompts(model: ForgetModel, concept: Concept) -> PromptSet:
    """Encodes every template with every name once; raises ForgetError when a phrase is not found in its prompt."""
    found = PromptSet([], [])
    for name in concept.names():
        ids = {encoder: [tokens] for encoder, tokens in name_tokens(model, name).items()}
        texts = [t.format(name.text) for t in concept.templates]
        for prompt in model.encode(texts, [name.word] * len(texts)):
            columns = concept_columns(prompt.tokens, ids, model.vocabulary, concept.end_token)
            if not columns:
                raise ForgetError(
                    f"Phrase {name.text!r} was not found in the prompt {prompt.text!r}. Put spaces around {{}} in the template."
                )
            found.encoded.append(prompt)
            found.columns.append(columns)
    return found


def trained_layers(model: ForgetModel, train: str) -> dict[str, torch.nn.Module]:
    """Diffusers path -> module of every layer that gets trained parts."""
    if train == "whole UNet":
        return dict(sorted(model.linear_layers().items()))
    return {f"{layer.name}.{p}": layer.projections[p] for layer in model.cross_attention() for p in PROJECTIONS[train]}


@dataclass
class Draw:
    """One training sample: t, e, r, c, I of Algorithm 1, and x~0 where there are pairs."""

    x: torch.Tensor
    sigma: torch.Tensor
    prompt: EncodedPrompt
    columns: list[int]
    mask: torch.Tensor | None
    zeroed: torch.Tensor | None


class Trainer:
    """Holds one training: trained parts, optimiser and the single random generator everything is drawn from."""

    def __init__(
        self,
        model: ForgetModel,
        concepts: list[Concept],
        references: Sequence[References],
        settings: GradientSettings,
        pairs: Sequence[Pairs] | None = None,
    ):
        self.model, self.settings, self.references, self.pairs = model, settings, references, pairs
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.prompts = [concept_prompts(model, concept) for concept in concepts]
        self.layers = trained_layers(model, settings.train)
        form, rank = settings.weights, settings.rank
        self.parts = {n: trainable(form, m, rank, self.generator, model.device) for n, m in self.layers.items()}
        self.parameters = [p for part in self.parts.values() for p in part.parameters()]
        groups = preserve_groups(model, concepts, settings.preserve_prompts, settings.use_everyday_captions)
        kept = model.encode([text for group in groups for text in group])
        rows = torch.cat([p.context for p in kept])
        self.rate = settings.learning_rate or auto_learning_rate(rows.shape[1], settings)
        self._make_optimiser()
        self.preservation = Preservation(model, self.parts, rows)
        self.sigmas = model.sigmas()
        size = tuple(references[0].latents.shape[1:])
        self.monitor = DriftMonitor(model, kept, (size[0], size[1], size[2])) if settings.drift_every else None
        self.first = self._first()
        self.good = (-1, self._state())

    def _make_optimiser(self) -> None:
        s = self.settings
        options = {"lr": self.rate, "weight_decay": s.weight_decay}
        self.optimiser = OPTIMISERS[s.optimiser](self.parameters, **options)
        shapes = {
            "constant": lambda k: 1.0,
            "linear": lambda k: 1 - k / s.steps,
            "cosine": lambda k: 0.5 + 0.5 * math.cos(math.pi * k / s.steps),
        }
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, shapes[s.schedule])
        half = any(m.weight.dtype == torch.float16 for m in self.layers.values())
        # Gradients that pass through half-precision activations would vanish without it.
        self.scaler = torch.amp.GradScaler(self.model.device.type, enabled=half and self.model.device.type == "cuda")

    def _first(self) -> dict[str, float]:
        """What each loss begins with, to weigh them against each other; the attention loss's is added at its first draw."""
        if self.pairs is None:
            return {}
        levels = self.sigmas[slice(*self._levels())]
        scales = [visual_scale(p.kept, p.zeroed, levels, self.settings.visual_weighting) for p in self.pairs]
        return {"visual": self.settings.visual_weight * sum(scales) / len(scales)}

    def _levels(self) -> tuple[int, int]:
        """The first and one past the last of the sigmas that are drawn."""
        first, last = self.settings.first_level, self.settings.last_level
        first, last = (round(level * (len(self.sigmas) - 1)) for level in (first, last))
        return first, last + 1

    def _pick(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))

    def draw(self) -> Draw:
        """Draws concept, noise level, reference or pair, noise and prompt."""
        which = self._pick(len(self.prompts)) if len(self.prompts) > 1 else 0
        first, end = self._levels()
        sigma = self.sigmas[first + self._pick(end - first)].reshape(1)
        prompts, zeroed, mask = self.prompts[which], None, None
        if self.pairs is not None:
            pairs = self.pairs[which]
            number = self._pick(len(pairs.kept))
            x0, zeroed, chosen = pairs.kept[number][None], pairs.zeroed[number][None], pairs.prompts[number]
        else:
            number = self._pick(len(self.references[which].latents))
            x0, mask = self.references[which].latents[number][None], self.references[which].mask(number)
            chosen = -1
        x = x0 + sigma.view(1, 1, 1, 1) * torch.randn(x0.shape, generator=self.generator)
        chosen = self._pick(len(prompts.encoded)) if chosen < 0 else chosen
        device = self.model.device
        zeroed = None if zeroed is None else zeroed.to(device)
        return Draw(x.to(device), sigma.to(device), prompts.encoded[chosen], prompts.columns[chosen], mask, zeroed)

    @contextlib.contextmanager
    def unet_pass(self, draw: Draw) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """One UNet pass: the predicted x0, and the (masked) probabilities of the concept's columns in every layer.

        The way back belongs into the context: checkpointed blocks run again there, and need their hooks.
        """
        collected: list[torch.Tensor] = []

        def receive(layer: CrossAttention, probabilities: torch.Tensor) -> None:
            columns = probabilities[..., draw.columns]
            if draw.mask is not None:
                grid = layer_mask(draw.mask, columns.shape[-2], *draw.x.shape[-2:]).to(columns)
                columns = columns * grid[:, None, :, None]
            collected.append(columns)

        layers = self.model.cross_attention()
        blocks = self.model.blocks() if self.settings.checkpointing else []
        with injected(self.layers, self.parts), attention_probe(layers, receive), checkpointed(blocks):
            predicted = self.model.denoise(draw.x, draw.sigma, [draw.prompt]).float()
            yield predicted, collected[: len(layers)]

    def losses(self, draw: Draw, predicted: torch.Tensor, columns: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
        """w_attn L_attn + w_vis L_vis of one draw and its UNet pass, and the attention mass."""
        s, total = self.settings, torch.zeros((), device=self.model.device)
        found = {}
        if s.attention_weight > 0:
            found["attention"] = s.attention_weight * attention_loss(columns, s.loss)
        if s.visual_weight > 0 and draw.zeroed is not None:
            found["visual"] = s.visual_weight * visual_loss(predicted, draw.zeroed, draw.sigma, s.visual_weighting)
        for name, loss in found.items():
            first = self.first.setdefault(name, max(float(loss.detach()), 1e-12))
            total = total + (loss / first if len(found) > 1 else loss)
        mass = torch.stack([attention_mass(a, list(range(a.shape[-1]))) for a in columns]).mean()
        return total, float(mass.detach())

    def backward(self) -> tuple[float, float]:
        """Accumulates the gradients of one step; returns its loss and attention mass, NaN where it was not finite."""
        s = self.settings
        self.optimiser.zero_grad(set_to_none=True)
        loss, mass = 0.0, 0.0
        for _ in range(s.accumulation):
            draw = self.draw()
            with self.unet_pass(draw) as (predicted, columns):
                one, m = self.losses(draw, predicted, columns)
                if not torch.isfinite(one):
                    return float("nan"), m
                self.scaler.scale(one / s.accumulation).backward()
            loss, mass = loss + float(one.detach()) / s.accumulation, mass + m / s.accumulation
        if s.preservation > 0:
            scale = 1.0 if len(self.first) > 1 else next(iter(self.first.values()))
            kept = s.preservation * PRESERVATION_SCALE * scale * self.preservation()
            if kept.requires_grad:
                self.scaler.scale(kept).backward()
            loss += float(kept.detach())
        return loss, mass

    def clip_gradients(self) -> bool:
        """Clips the gradients; False when they are not finite, except where the scaler leaves such a step out by itself."""
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        return self.scaler.is_enabled() or bool(torch.isfinite(norm))

    def step(self, number: int) -> Step | None:
        """One step of Algorithm 1; None when the loss or its gradient was not finite, and then the last good state is back.

        Raises ForgetError when that happens before there is a good state to go back to.
        """
        loss, mass = self.backward()
        if not (math.isfinite(loss) and self.clip_gradients()):
            if self.good[0] <= 0:
                raise ForgetError(
                    f"Expected a finite loss, got NaN or infinity at step {number + 1}. Lower the learning rate, or use fp32; nothing was saved."
                )
            self.restore()
            return None
        if number % GOOD_STATE_EVERY == 0:
            self.good = (number, self._state())
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        return Step(number, loss, mass)

    def _state(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Takes the trained parts back to the last state whose loss was finite."""
        for parameter, value in zip(self.parameters, self.good[1]):
            parameter.copy_(value)

    def drift(self) -> float:
        assert self.monitor is not None
        with injected(self.layers, self.parts):
            return self.monitor()

    def patch_factors(self) -> tuple[dict[str, Factors], float]:
        """Factors by kohya name, and the largest share of energy that any layer's reduction left behind."""
        reduced = {kohya_name(n): part.as_factors(self.settings.rank) for n, part in self.parts.items()}
        return {n: f for n, (f, _) in reduced.items()}, max(left for _, left in reduced.values())


@dataclass
class History:
    """What a training reports: every step, the drift seen on the way, and what to tell the user."""

    steps: list[Step] = field(default_factory=list)
    drifts: list[tuple[int, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: str = "all steps"


def train(trainer: Trainer, progress: Callable[[int, int, dict], None] | None = None) -> History:
    """Runs the steps until they are done, the attention target is reached, the drift limit is passed or the loss is lost."""
    settings, history, recent = trainer.settings, History(), None
    for number in range(settings.steps):
        step = trainer.step(number)
        if step is None:
            history.stopped = "loss not finite"
            history.warnings.append(
                f"The loss was not finite at step {number + 1}: kept the state before step {trainer.good[0] + 1}. Lower the learning rate."
            )
            break
        history.steps.append(step)
        recent = step.mass if recent is None else 0.7 * recent + 0.3 * step.mass
        if progress is not None:
            progress(number + 1, settings.steps, {"loss": step.loss, "mass": step.mass})
        if settings.target_mass > 0 and number >= 4 and recent < settings.target_mass * history.steps[0].mass:
            history.stopped = "attention target reached"
            break
        if settings.drift_every and (number + 1) % settings.drift_every == 0 and watch(trainer, history, number + 1):
            break
    if settings.drift_every and (not history.drifts or history.drifts[-1][0] != len(history.steps)):
        watch(trainer, history, len(history.steps))
    return history


def watch(trainer: Trainer, history: History, number: int) -> bool:
    """Looks at the drift monitor; warns before collapse, and says whether to stop."""
    settings, drift = trainer.settings, trainer.drift()
    history.drifts.append((number, drift))
    if settings.drift_warning and drift > settings.drift_warning and not history.warnings:
        history.warnings.append(
            f"Preserve prompts have drifted by {drift:.3f} at step {number}, above {settings.drift_warning:g}: other concepts may be lost. "
            "Use fewer steps or a lower learning rate, raise preservation, or set target_mass."
        )
    if settings.drift_limit and drift > settings.drift_limit:
        history.stopped = "drift limit"
        return True
    return False


def forget_by_gradient(
    model: ForgetModel,
    concepts: list[Concept],
    references: Sequence[References],
    settings: GradientSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
    pairs: Sequence[Pairs] | None = None,
) -> ForgetPatch:
    """Trains factors that turn the concept's attention away (Algorithm 1; eq. 7), or reproduce zeroed attention (eq. 9).

    `references`: of each concept; one zero latent where there are no images (`no_real_image` of the released code).
    `pairs`: of each concept, needed when `visual_weight` is above 0; they then take the references' place.
    `progress(done, total, figures)` is called every step and may raise to interrupt. Everything random is drawn from one
    generator, so one seed gives one patch. Raises ForgetError on settings out of range, a phrase that is not found,
    missing pairs, and a loss that is not finite before anything good was learned. The model must allow gradients.
    """
    settings = settings or GradientSettings()
    check_settings(settings)
    check_concepts(model, concepts)
    if settings.visual_weight > 0 and pairs is None:
        raise ForgetError("Expected pairs for the visual denoising loss, got none. Make them with make_pairs.")
    started = time.perf_counter()
    trainer = Trainer(model, concepts, references, settings, pairs if settings.visual_weight > 0 else None)
    history = train(trainer, progress)
    factors, left = trainer.patch_factors()
    figures = {
        "steps": len(history.steps),
        "stopped": history.stopped,
        "learning_rate": trainer.rate,
        "losses": [s.loss for s in history.steps],
        "mass": [s.mass for s in history.steps],
        "drift": [list(pair) for pair in history.drifts],
        "warnings": history.warnings,
        "rank_residual": left,
        "preserve_drift": float(trainer.preservation().detach().sqrt()),
        "seconds": time.perf_counter() - started,
    }
    method = {"method": method_name(settings), **asdict(settings)}
    return ForgetPatch(factors, [c.as_dict() for c in concepts], fingerprint(model), method, rounded(figures))


def method_name(settings: GradientSettings) -> str:
    """What the settings amount to, in words."""
    parts = {"attention re-steering": settings.attention_weight, "visual denoising": settings.visual_weight}
    return " and ".join(name for name, weight in parts.items() if weight > 0)
