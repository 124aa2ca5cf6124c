"""One training by gradient: its draws, passes, losses and steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..attention.hooks import attention_probe, checkpointed
from ..attention.masks import LayerMasks
from ..attention.zeroing import attention_mass
from ..concepts.concept import Concept, name_tokens
from ..concepts.preserve import preserve_groups
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import CrossAttention, ForgetModel
from ..model.sampler import sample_seeds
from ..model.tokens import EncodedPrompt, concept_columns
from ..model.transfer import read, send
from ..patch.patch import Factors, kohya_name
from .drift import DriftMonitor
from .loss_scale import LossScale
from .losses import Preservation, attention_loss, visual_loss, visual_scale
from .references import ImagePairs, References
from .settings import OPTIMISERS, PRESERVATION_SCALE, PROJECTIONS, GradientSettings, auto_learning_rate
from .trainable import injected, trainable

# Steps between two states that a lost loss can go back to.
GOOD_STATE_EVERY = 5
PREVIEW_STEPS = 10


@dataclass
class Step:
    """What a training step reports: its loss and the concept's attention mass."""

    number: int
    loss: float
    mass: float


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
        texts = [fill_template(t, name.text) for t in concept.templates]
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
    """One training sample on the model's device: t, e, r, c, I of Algorithm 1, and x~0 where there are pairs."""

    x: torch.Tensor
    sigma: torch.Tensor
    prompt: EncodedPrompt
    columns: torch.Tensor
    mask: LayerMasks | None
    zeroed: torch.Tensor | None


class _SeenEnough(Exception):  # noqa: N818 - no error
    """Ends a UNet pass of which nothing more is wanted."""


class Trainer:
    """Holds one training: trained parts, optimiser and the single random generator everything is drawn from."""

    def __init__(
        self,
        model: ForgetModel,
        concepts: list[Concept],
        references: Sequence[References],
        settings: GradientSettings,
        pairs: Sequence[ImagePairs] | None = None,
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
        self.size = (size[0], size[1], size[2])
        self.monitor = DriftMonitor(model, kept, self.size) if settings.drift_every else None
        self._masks: dict[tuple[int, int], LayerMasks] = {}
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
        self.loss_scale = LossScale(self.model.compute_dtype())

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
            x0, mask = self.references[which].latents[number][None], self._mask(which, number)
            chosen = -1
        x = x0 + sigma.view(1, 1, 1, 1) * torch.randn(x0.shape, generator=self.generator)
        chosen = self._pick(len(prompts.encoded)) if chosen < 0 else chosen
        columns, pair = torch.tensor(prompts.columns[chosen]), [] if zeroed is None else [zeroed]
        x, sigma, columns, *pair = send(self.model.device, x, sigma, columns, *pair)
        return Draw(x, sigma, prompts.encoded[chosen], columns.long(), mask, pair[0] if pair else None)

    def _mask(self, which: int, number: int) -> LayerMasks | None:
        """The mask of a concept's reference, kept for its next draw."""
        references = self.references[which]
        if references.masks is None:
            return None
        place = which, number % len(references.masks)
        if place not in self._masks:
            self._masks[place] = LayerMasks(references.masks[place[1]], *self.size[1:], self.model.device)
        return self._masks[place]

    @contextlib.contextmanager
    def unet_pass(self, draw: Draw) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """One UNet pass: the predicted x0, and the (masked) probabilities of the concept's columns in every layer.

        The way back belongs into the context: checkpointed blocks run again there, and need their hooks. Where attention alone
        counts, the pass ends with the last layer's, and the prediction is x.
        """
        layers = self.model.cross_attention()
        blocks = self.model.blocks() if self.settings.checkpointing else []
        cut = self.settings.visual_weight == 0 and not blocks
        collected: list[torch.Tensor] = []

        def receive(layer: CrossAttention, probabilities: torch.Tensor) -> None:
            columns = probabilities.index_select(-1, draw.columns)
            if draw.mask is not None:
                columns = columns * draw.mask(columns.shape[-2]).to(columns)[:, None, :, None]
            collected.append(columns)
            if cut and len(collected) == len(layers):
                raise _SeenEnough

        with injected(self.layers, self.parts), attention_probe(layers, receive), checkpointed(blocks):
            try:
                predicted = self.model.denoise(draw.x, draw.sigma, [draw.prompt]).float()
            except _SeenEnough:
                predicted = draw.x
            yield predicted, collected[: len(layers)]

    def losses(
        self, draw: Draw, predicted: torch.Tensor, columns: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """w_attn L_attn + w_vis L_vis of one draw and its UNet pass, and the attention mass: scalars on the model's device."""
        s, total = self.settings, torch.zeros((), device=self.model.device)
        found = {}
        if s.attention_weight > 0:
            found["attention"] = s.attention_weight * attention_loss(columns, s.loss)
        if s.visual_weight > 0 and draw.zeroed is not None:
            found["visual"] = s.visual_weight * visual_loss(predicted, draw.zeroed, draw.sigma, s.visual_weighting)
        for name, loss in found.items():
            if name not in self.first:
                self.first[name] = max(float(loss.detach()), 1e-12)
            total = total + (loss / self.first[name] if len(found) > 1 else loss)
        return total, torch.stack([attention_mass(a.detach()) for a in columns]).mean()

    def backward(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Accumulates the gradients of one step; returns the terms of its loss and of its attention mass, scalars on the model's device."""
        s = self.settings
        self.optimiser.zero_grad(set_to_none=True)
        losses, masses = [], []
        for _ in range(s.accumulation):
            draw = self.draw()
            with self.unet_pass(draw) as (predicted, columns):
                one, mass = self.losses(draw, predicted, columns)
                self.loss_scale.scaled(one / s.accumulation).backward()
            losses.append(one.detach().float() / s.accumulation)
            masses.append(mass.float() / s.accumulation)
        if s.preservation > 0:
            scale = 1.0 if len(self.first) > 1 else next(iter(self.first.values()))
            kept = s.preservation * PRESERVATION_SCALE * scale * self.preservation()
            if kept.requires_grad:
                self.loss_scale.scaled(kept).backward()
            losses.append(kept.detach())
        return losses, masses

    def clip_gradients(self) -> torch.Tensor:
        """Clips the gradients; returns the norm that they had, a scalar on the model's device."""
        self.loss_scale.unscale(self.parameters)
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)

    def gradients(self) -> tuple[float, float] | None:
        """The clipped gradients of one step, its loss and attention mass; None when loss or gradient is not finite.

        Where half precision overflows, the same draws are repeated with a smaller loss scale.
        """
        while True:
            drawn_from = self.generator.get_state()
            losses, masses = self.backward()
            # The only values that a step reads, and so the only time that it waits for the device.
            *values, norm = read([*losses, *masses, self.clip_gradients()])
            loss, mass = sum(values[: len(losses)]), sum(values[len(losses) :])
            if not math.isfinite(loss):
                return None
            if math.isfinite(norm):
                self.loss_scale.keep()
                return loss, mass
            if not self.loss_scale.reduce():
                return None
            self.generator.set_state(drawn_from)

    def step(self, number: int) -> Step | None:
        """One step of Algorithm 1; None when the loss or its gradient was not finite, and then the last good state is back.

        Raises ForgetError when that happens before there is a good state to go back to.
        """
        gradients = self.gradients()
        if gradients is None:
            if self.good[0] <= 0:
                raise ForgetError(
                    f"Expected a finite loss, got NaN or infinity at step {number + 1}. Lower the learning rate, or use fp32; nothing was saved."
                )
            self.restore()
            return None
        if number % GOOD_STATE_EVERY == 0:
            self.good = (number, self._state())
        self.optimiser.step()
        self.schedule.step()
        return Step(number, *gradients)

    def _state(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Takes the trained parts back to the last state whose loss was finite."""
        for parameter, value in zip(self.parameters, self.good[1]):
            parameter.copy_(value)

    def drift(self) -> float:
        """The drift of the preserve prompts' predictions with the trained parts in place, see DriftMonitor."""
        assert self.monitor is not None
        with injected(self.layers, self.parts):
            return self.monitor()

    @torch.no_grad()
    def preview(self) -> torch.Tensor:
        """What the model draws by now for the first concept's first prompt: latents (1, C, h, w), always from one noise."""
        with injected(self.layers, self.parts):
            return sample_seeds(self.model, self.prompts[0].encoded[:1], self.size, self.settings.seed, PREVIEW_STEPS)

    def patch_factors(self) -> tuple[dict[str, Factors], float]:
        """Factors by kohya name, and the largest share of energy that any layer's reduction left behind."""
        reduced = {kohya_name(n): part.as_factors(self.settings.rank) for n, part in self.parts.items()}
        return {n: f for n, (f, _) in reduced.items()}, max(left for _, left in reduced.values())
