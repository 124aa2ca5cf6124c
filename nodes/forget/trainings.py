"""Trains forget patches with what a node was given, in closed form or by gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ...fmn_core.attacks.hardening import Hardening, forget_hardened
from ...fmn_core.attacks.search import Budget
from ...fmn_core.closed_form.forget import forget_closed_form
from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.concepts.concept import Concept
from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.training.augmentation import AugmentSettings
from ...fmn_core.training.forget import forget_by_gradient
from ...fmn_core.training.references import PAIR_STEPS, ImagePairs, References
from ...fmn_core.training.settings import GradientSettings, check_settings
from .. import host
from ..adapter import references
from ..ui.forget_options import ForgetOptions
from ..web.monitor import Monitor
from ..web.progress import progress_callback

# Pictures of each concept that the model draws for attacks on a closed form where no images are connected.
ATTACKED_PICTURES = 8


@dataclass(frozen=True)
class Training:
    """Inputs that all methods share: the model, the concepts, their options and their image pairs."""

    adapter: Any
    concepts: list[Concept]
    options: ForgetOptions
    seed: int
    vae: Any
    pairs: dict[Any, ImagePairs] | None

    @property
    def title(self) -> str:
        """Labels of the concepts, for progress bars and plots."""
        return ", ".join(concept.label() for concept in self.concepts)

    def references(self, augmentation: AugmentSettings, own_images: int) -> list[References]:
        """Latents of each concept's images, or of `own_images` pictures that the model draws without them."""
        return [
            references.encode_references(self.adapter, self.vae, concept, augmentation, self.seed, own_images)
            for concept in self.concepts
        ]


def closed_form(training: Training, settings: ClosedFormSettings) -> ForgetPatch:
    """The patch of a solve, between attacks where the options ask for attack rounds."""
    adapter = training.adapter
    if training.options.attack_rounds:
        host.require_trainable(adapter.patcher)
        hardening = Hardening(rounds=training.options.attack_rounds, budget=Budget(seed=training.seed))
        return _hardened(training, settings, hardening)
    bar, model = host.Progress(4), references.with_cache(adapter)
    with torch.no_grad():
        return forget_closed_form(
            model, training.concepts, settings, lambda done, total, figures: bar.update(done, total)
        )


def _hardened(training: Training, settings: ClosedFormSettings, hardening: Hardening) -> ForgetPatch:
    """The closed form between attacks on it, on the concepts' images or on pictures that the model draws."""
    adapter, concepts = training.adapter, training.concepts
    attacked = training.references(AugmentSettings(), ATTACKED_PICTURES)
    total = hardening.rounds * hardening.searches * hardening.budget.steps * len(concepts)
    title = f"attacks on {training.title}"
    with Monitor(title, total) as monitor, adapter.ready_for_gradients(text=True):
        progress = progress_callback(monitor, adapter)
        model = references.with_cache(adapter)
        return forget_hardened(model, concepts, attacked, settings, hardening, progress)


def by_gradient(training: Training, settings: GradientSettings) -> ForgetPatch:
    """The patch of a training by gradient, followed by the monitor."""
    adapter, options = training.adapter, training.options
    check_settings(settings)
    pairs = _image_pairs(training) if settings.visual_weight > 0 else None
    latents = (
        training.references(options.augmentation, options.own_images)
        if pairs is None
        else [References(p.kept) for p in pairs]
    )
    model = references.with_cache(adapter)
    # The pairs above were drawn in the precision of the user's MODEL; only the training changes the precision.
    with (
        Monitor(training.title, settings.steps) as monitor,
        adapter.ready_for_gradients(),
        host.computing_in(adapter.patcher, options.precision),
    ):
        progress = progress_callback(monitor, adapter)
        settings = replace(settings, checkpointing=settings.checkpointing or bool(adapter.recomputed_blocks()))
        return forget_by_gradient(model, training.concepts, latents, settings, progress, pairs)


def _image_pairs(training: Training) -> list[ImagePairs]:
    """The connected image pairs of each concept, or new ones where none are connected."""
    adapter, concepts, connected = training.adapter, training.concepts, training.pairs
    if connected is None:
        with torch.no_grad():
            host.load(adapter.patcher)
            count, seed = training.options.pairs, training.seed
            return [references.image_pairs(adapter, c, count, PAIR_STEPS, adapter.guidance, seed) for c in concepts]
    missing = [c.label() for c in concepts if c.key() not in connected]
    if missing:
        raise ForgetError(
            f"Expected pairs of every concept, got none of {', '.join(missing)}. Give Visual Denoising Pairs the same concepts."
        )
    return [connected[c.key()] for c in concepts]
