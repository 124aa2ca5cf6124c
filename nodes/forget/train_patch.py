"""Train Forget Patch: makes a model forget concepts, in closed form or by gradient, and saves the patch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ...fmn_core.attacks.hardening import Hardening, forget_hardened
from ...fmn_core.attacks.search import Budget
from ...fmn_core.closed_form.forget import forget_closed_form
from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.concepts.concept import Concept, check_concepts
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.layers import TEXT_PROJECTIONS
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.training.augmentation import AugmentSettings
from ...fmn_core.training.forget import forget_by_gradient
from ...fmn_core.training.references import PAIR_GUIDANCE, PAIR_STEPS, ImagePairs, References
from ...fmn_core.training.settings import GradientSettings, check_settings
from .. import host
from ..adapter import references
from ..adapter.model import ComfyModel
from ..host.node_api import CATEGORY, io
from ..ui import destination, pictures, reports, shared_inputs
from ..ui.forget_options import DEFAULTS, ForgetOptions
from ..web.monitor import Monitor
from ..web.progress import progress_callback
from .train_patch_inputs import BOTH, CLOSED_FORM, RESTEERING, VISUAL, TrainInputs, train_inputs

# Pictures of each concept that the model draws for attacks on a closed form where no images are connected.
ATTACKED_PICTURES = 8


class TrainForgetPatch(io.ComfyNode):
    """Node that makes a model forget concepts and saves the change as a patch."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_TrainForgetPatch",
            display_name="Train Forget Patch",
            category=CATEGORY,
            description="Makes a model forget a concept and saves what it learned as a small patch, an ordinary LoRA file.",
            is_output_node=True,
            inputs=train_inputs(),
            outputs=shared_inputs.patch_outputs(
                "The loss and the attention mass; for the closed form, target missed and drift per layer."
            ),
        )

    @classmethod
    def execute(cls, model, clip, file_name, **widgets) -> io.NodeOutput:
        inputs = TrainInputs(**widgets)
        file = destination.for_patch(file_name)
        with torch.inference_mode(False):
            adapter = ComfyModel(model, clip)
            concepts = references.concepts_to_forget(inputs.concepts, inputs.typed_concept())
            check_concepts(adapter, concepts)
            training = _Training(adapter, concepts, inputs.options or DEFAULTS, inputs.seed, inputs.vae, inputs.pairs)
            patch = _train(training, inputs).as_stored()
        patched, matched = host.apply_patch(model, patch, 1.0)
        saved = file.save_patch(patch)
        report = "\n".join([*saved.warning, reports.training_report(patch, matched, saved)])
        plot = pictures.training_plot(patch.figures, f"{inputs.method}: {training.title}")
        return io.NodeOutput(
            patched, patch, plot, report, ui={"text": (report,), "fmn_related": (reports.related_names(patch),)}
        )


@dataclass(frozen=True)
class _Training:
    """Inputs that all methods share: the model, the concepts, their options and their image pairs."""

    adapter: ComfyModel
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


def _train(training: _Training, inputs: TrainInputs) -> ForgetPatch:
    """The patch that the chosen method makes."""
    train = inputs.trained_weights()
    shared = {
        "train": train,
        "rank": inputs.rank,
        "preservation": inputs.preservation,
        "preserve_prompts": parse_lines(inputs.preserve_prompts),
    }
    if inputs.method == CLOSED_FORM:
        _check_projections(train)
        return _closed_form(training, replace(training.options.closed_form, **shared))
    gradient = training.options.gradient
    return _by_gradient(
        training,
        replace(
            gradient,
            **shared,
            **_loss_weights(inputs.method, gradient),
            loss=inputs.loss,
            steps=inputs.steps,
            learning_rate=inputs.learning_rate,
            seed=inputs.seed,
            target_mass=inputs.target_mass,
        ),
    )


def _check_projections(train: str) -> None:
    if train not in TEXT_PROJECTIONS:
        raise ForgetError(
            f"Expected the closed form to train {' or '.join(TEXT_PROJECTIONS)}, got {train!r}. Choose one of these, auto, or a method by gradient."
        )


def _loss_weights(method: str, settings: GradientSettings) -> dict[str, float]:
    """Weights of the two losses in GradientSettings; 0 for a loss that the method does not use."""
    return {
        "attention_weight": settings.attention_weight if method in (RESTEERING, BOTH) else 0.0,
        "visual_weight": settings.visual_weight if method in (VISUAL, BOTH) else 0.0,
    }


def _closed_form(training: _Training, settings: ClosedFormSettings) -> ForgetPatch:
    adapter = training.adapter
    if training.options.attack_rounds:
        hardening = Hardening(rounds=training.options.attack_rounds, budget=Budget(seed=training.seed))
        return _hardened(training, settings, hardening)
    bar, model = host.Progress(4), references.with_cache(adapter)
    with torch.no_grad():
        return forget_closed_form(
            model, training.concepts, settings, lambda done, total, figures: bar.update(done, total)
        )


def _hardened(training: _Training, settings: ClosedFormSettings, hardening: Hardening) -> ForgetPatch:
    """The closed form between attacks on it, on the concepts' images or on pictures that the model draws."""
    adapter, concepts = training.adapter, training.concepts
    attacked = training.references(AugmentSettings(), ATTACKED_PICTURES)
    total = hardening.rounds * hardening.searches * hardening.budget.steps * len(concepts)
    title = f"attacks on {training.title}"
    with Monitor(title, total) as monitor, adapter.ready_for_gradients(text=True):
        progress = progress_callback(monitor, adapter, title)
        model = references.with_cache(adapter)
        return forget_hardened(model, concepts, attacked, settings, hardening, progress)


def _by_gradient(training: _Training, settings: GradientSettings) -> ForgetPatch:
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
        progress = progress_callback(monitor, adapter, training.title)
        settings = replace(settings, checkpointing=settings.checkpointing or bool(adapter.recomputed_blocks()))
        return forget_by_gradient(model, training.concepts, latents, settings, progress, pairs)


def _image_pairs(training: _Training) -> list[ImagePairs]:
    """The connected image pairs of each concept, or new ones where none are connected."""
    adapter, concepts, connected = training.adapter, training.concepts, training.pairs
    if connected is None:
        with torch.no_grad():
            host.load(adapter.patcher)
            count, seed = training.options.pairs, training.seed
            return [references.image_pairs(adapter, c, count, PAIR_STEPS, PAIR_GUIDANCE, seed) for c in concepts]
    missing = [c.label() for c in concepts if c.key() not in connected]
    if missing:
        raise ForgetError(
            f"Expected pairs of every concept, got none of {', '.join(missing)}. Give Visual Denoising Pairs the same concepts."
        )
    return [connected[c.key()] for c in concepts]
