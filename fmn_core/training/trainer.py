"""Training by gradient: random samples, UNet passes, losses and steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..attention.hooks import checkpointed
from ..attention.masks import LayerMasks
from ..attention.zeroing import attention_mass
from ..concepts.concept import Concept
from ..concepts.preserve import preserve_groups
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.sampler import sample_seeds
from ..model.tokens import EncodedPrompt
from ..model.transfer import read, send
from ..patch.patch import Factors, kohya_name
from .concept_prompts import concept_prompts
from .drift import DriftMonitor
from .loss_scale import LossScale
from .losses import Preservation, attention_loss, visual_loss, visual_scale
from .references import ImagePairs, References
from .settings import OPTIMISERS, PRESERVATION_SCALE, GradientSettings, auto_learning_rate
from .trainable import injected, make_trainable

# Steps between two copies of the trained parameters, one of which is restored when the loss is no longer finite.
GOOD_STATE_EVERY = 5
PREVIEW_STEPS = 10


@dataclass
class Step:
    """Number, loss and attention mass of a training step."""

    number: int
    loss: float
    mass: float


@dataclass
class TrainingSample:
    """A random sample of Algorithm 1 on the model's device.

    Parameters
    ----------
    x
        Noised latent (1, C, h, w).
    sigma
        Its noise level (1,).
    columns
        The prompt's concept columns I.
    mask
        Mask of the reference; None counts every pixel.
    zeroed
        Latent x~0 of an image pair (1, C, h, w); None where there are no pairs.
    """

    x: torch.Tensor
    sigma: torch.Tensor
    prompt: EncodedPrompt
    columns: torch.Tensor
    mask: LayerMasks | None
    zeroed: torch.Tensor | None


class _AttentionComplete(Exception):  # noqa: N818 - no error
    """Ends a UNet pass after the last cross-attention layer."""


class Trainer:
    """One training: the trained changes of layers, their optimiser, and the only random generator."""

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
        self.layers = model.trained_layers(settings.train)
        form, rank = settings.weights, settings.rank
        self.trained = {n: make_trainable(form, m, rank, self.generator, model.device) for n, m in self.layers.items()}
        self.parameters = [p for change in self.trained.values() for p in change.parameters()]
        groups = preserve_groups(model, concepts, settings.preserve_prompts, settings.use_everyday_captions)
        preserve = model.encode([text for group in groups for text in group])
        rows = torch.cat([block.context for p in preserve for block in p.blocks])
        self.learning_rate = settings.learning_rate or auto_learning_rate(rows.shape[1], settings)
        self._make_optimiser()
        self.preservation = Preservation(model, self.trained, rows)
        self.sigmas = model.sigmas()
        size = tuple(references[0].latents.shape[1:])
        self.size = (size[0], size[1], size[2])
        self.monitor = DriftMonitor(model, preserve, self.size) if settings.drift_every else None
        self._masks: dict[tuple[int, int], LayerMasks] = {}
        self.initial_losses = self._initial_losses()
        self.good_step, self.good_state = -1, self._state()

    def _make_optimiser(self) -> None:
        s = self.settings
        self.optimiser = OPTIMISERS[s.optimiser](self.parameters, lr=self.learning_rate, weight_decay=s.weight_decay)
        factors = {
            "constant": lambda k: 1.0,
            "linear": lambda k: 1 - k / s.steps,
            "cosine": lambda k: 0.5 + 0.5 * math.cos(math.pi * k / s.steps),
        }
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, factors[s.schedule])
        self.loss_scale = LossScale(self.model.compute_dtype())

    def _initial_losses(self) -> dict[str, float]:
        """The first value of each loss, by which it is divided; that of the attention loss is added at its first sample."""
        if self.pairs is None:
            return {}
        levels = self.sigmas[slice(*self._levels())]
        scales = [visual_scale(p.kept, p.zeroed, levels, self.settings.visual_weighting) for p in self.pairs]
        return {"visual": self.settings.visual_weight * sum(scales) / len(scales)}

    def _levels(self) -> tuple[int, int]:
        """Indices of the sigmas that are drawn: the first, and one past the last."""
        first, last = self.settings.first_level, self.settings.last_level
        first, last = (round(level * (len(self.sigmas) - 1)) for level in (first, last))
        return first, last + 1

    def _random_index(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))

    def draw(self) -> TrainingSample:
        """Draws a concept, a noise level, a reference or an image pair, noise and a prompt."""
        concept = self._random_index(len(self.prompts)) if len(self.prompts) > 1 else 0
        first, end = self._levels()
        sigma = self.sigmas[first + self._random_index(end - first)].reshape(1)
        prompts, zeroed, mask = self.prompts[concept], None, None
        if self.pairs is not None:
            pairs = self.pairs[concept]
            index = self._random_index(len(pairs.kept))
            x0, zeroed, prompt = pairs.kept[index][None], pairs.zeroed[index][None], pairs.prompts[index]
        else:
            index = self._random_index(len(self.references[concept].latents))
            x0, mask = self.references[concept].latents[index][None], self._mask(concept, index)
            prompt = None
        x = x0 + sigma.view(1, 1, 1, 1) * torch.randn(x0.shape, generator=self.generator)
        prompt = self._random_index(len(prompts.encoded)) if prompt is None else prompt
        columns, targets = torch.tensor(prompts.columns[prompt]), [] if zeroed is None else [zeroed]
        x, sigma, columns, *targets = send(self.model.device, x, sigma, columns, *targets)
        return TrainingSample(x, sigma, prompts.encoded[prompt], columns.long(), mask, targets[0] if targets else None)

    def _mask(self, concept: int, reference: int) -> LayerMasks | None:
        """The mask of a concept's reference, cached for its next sample."""
        masks = self.references[concept].masks
        if masks is None:
            return None
        key = concept, reference % len(masks)
        if key not in self._masks:
            self._masks[key] = LayerMasks(masks[key[1]], *self.size[1:], self.model.device)
        return self._masks[key]

    @contextlib.contextmanager
    def unet_pass(self, sample: TrainingSample) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Runs the UNet on a sample; gives the predicted x0 and every layer's masked probabilities of the concept columns.

        Notes
        -----
        The backward pass belongs into the context, because checkpointed blocks run again there and need their hooks. Where only the
        attention loss is used, the pass ends after the last cross-attention layer, and the noised latent stands for the prediction.
        """
        layers = len(self.model.attention_layers())
        blocks = self.model.blocks() if self.settings.checkpointing else []
        attention_only = self.settings.visual_weight == 0 and not blocks
        collected: list[torch.Tensor] = []

        def receive(layer: Any, probabilities: torch.Tensor) -> None:
            columns = probabilities.index_select(-1, sample.columns)
            if sample.mask is not None:
                columns = columns * sample.mask(columns.shape[-2]).to(columns)[:, None, :, None]
            collected.append(columns)
            if attention_only and len(collected) == layers:
                raise _AttentionComplete

        with injected(self.layers, self.trained), self.model.probe_attention(receive), checkpointed(blocks):
            try:
                predicted = self.model.denoise(sample.x, sample.sigma, [sample.prompt]).float()
            except _AttentionComplete:
                predicted = sample.x
            yield predicted, collected[:layers]

    def losses(
        self, sample: TrainingSample, predicted: torch.Tensor, columns: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss w_attn L_attn + w_vis L_vis of a sample and its UNet pass, and the attention mass: scalars on the model's device."""
        s, total = self.settings, torch.zeros((), device=self.model.device)
        terms = {}
        if s.attention_weight > 0:
            terms["attention"] = s.attention_weight * attention_loss(columns, s.loss)
        if s.visual_weight > 0 and sample.zeroed is not None:
            terms["visual"] = s.visual_weight * visual_loss(predicted, sample.zeroed, sample.sigma, s.visual_weighting)
        for name, loss in terms.items():
            if name not in self.initial_losses:
                self.initial_losses[name] = max(float(loss.detach()), 1e-12)
            total = total + (loss / self.initial_losses[name] if len(terms) > 1 else loss)
        return total, torch.stack([attention_mass(a.detach()) for a in columns]).mean()

    def backward(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Accumulates the gradients of one step; returns the terms of its loss and of its attention mass, scalars on the model's device."""
        s = self.settings
        self.optimiser.zero_grad(set_to_none=True)
        losses, masses = [], []
        for _ in range(s.accumulation):
            sample = self.draw()
            with self.unet_pass(sample) as (predicted, columns):
                loss, mass = self.losses(sample, predicted, columns)
                self.loss_scale.scaled(loss / s.accumulation).backward()
            losses.append(loss.detach().float() / s.accumulation)
            masses.append(mass.float() / s.accumulation)
        if s.preservation > 0:
            scale = 1.0 if len(self.initial_losses) > 1 else next(iter(self.initial_losses.values()))
            preservation = s.preservation * PRESERVATION_SCALE * scale * self.preservation()
            if preservation.requires_grad:
                self.loss_scale.scaled(preservation).backward()
            losses.append(preservation.detach())
        return losses, masses

    def clip_gradients(self) -> torch.Tensor:
        """Clips the gradients; returns their norm before clipping, a scalar on the model's device."""
        self.loss_scale.unscale(self.parameters)
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)

    def gradients(self) -> tuple[float, float] | None:
        """Computes the clipped gradients of one step.

        Returns
        -------
        The step's loss and attention mass; None when the loss or its gradient is not finite.

        Notes
        -----
        Where half precision overflows, the same samples are repeated with a smaller loss scale.
        """
        while True:
            generator_state = self.generator.get_state()
            losses, masses = self.backward()
            # The only values that a step reads: each read waits for the device.
            *values, norm = read([*losses, *masses, self.clip_gradients()])
            loss, mass = sum(values[: len(losses)]), sum(values[len(losses) :])
            if not math.isfinite(loss):
                return None
            if math.isfinite(norm):
                self.loss_scale.keep()
                return loss, mass
            if not self.loss_scale.reduce():
                return None
            self.generator.set_state(generator_state)

    def step(self, number: int) -> Step | None:
        """Runs one step of Algorithm 1.

        Returns
        -------
        None when the loss or its gradient was not finite; the last good state is then restored.

        Raises
        ------
        ForgetError
            When the loss or its gradient was not finite before there was a good state.
        """
        gradients = self.gradients()
        if gradients is None:
            if self.good_step <= 0:
                raise ForgetError(
                    f"Expected a finite loss, got NaN or infinity at step {number + 1}. Lower the learning rate, or use fp32; nothing was saved."
                )
            self.restore()
            return None
        if number % GOOD_STATE_EVERY == 0:
            self.good_step, self.good_state = number, self._state()
        self.optimiser.step()
        self.schedule.step()
        return Step(number, *gradients)

    def _state(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Restores the last state of the trained parameters that had a finite loss."""
        for parameter, value in zip(self.parameters, self.good_state):
            parameter.copy_(value)

    def drift(self) -> float:
        """Drift of the preserve prompts' predictions under the present training, see DriftMonitor."""
        assert self.monitor is not None
        with injected(self.layers, self.trained):
            return self.monitor()

    @torch.no_grad()
    def preview(self) -> torch.Tensor:
        """Samples the first concept's first prompt under the present training, always from the same noise: latents (1, C, h, w)."""
        with injected(self.layers, self.trained):
            return sample_seeds(self.model, self.prompts[0].encoded[:1], self.size, self.settings.seed, PREVIEW_STEPS)

    def patch_factors(self) -> tuple[dict[str, Factors], float]:
        """Factors by kohya name, and the largest share of energy that the reduction to them lost in any layer."""
        reduced = {kohya_name(n): change.as_factors(self.settings.rank) for n, change in self.trained.items()}
        return {n: f for n, (f, _) in reduced.items()}, max(residual for _, residual in reduced.values())
