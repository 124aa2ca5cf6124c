"""Train Forget Patch: makes a model forget concepts by gradient, with the paper's losses, and saves the patch."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...fmn_core.concepts.concept import check_concepts
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.layers import TEXT_PROJECTIONS
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.training.settings import GradientSettings
from .. import host
from ..adapter import references
from ..adapter.transformer import trained_model
from ..host.node_api import Menu, io
from ..ui import destination, phrases, pictures, reports, shared_inputs
from ..ui.forget_options import DEFAULTS
from .train_patch_inputs import BOTH, CLOSED_FORM, METHODS, RESTEERING, VISUAL, TrainInputs, train_inputs
from .trainings import Training, by_gradient, closed_form


class TrainForgetPatch(io.ComfyNode):
    """Node that trains a patch by gradient. Graphs saved before Forget Concept existed also solve in closed form with it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_TrainForgetPatch",
            display_name="Train Forget Patch",
            category=Menu.TRAINING,
            description="Makes a model forget a concept by gradient, with the losses of the Forget-Me-Not paper, and saves what it learned as "
            "a small patch, an ordinary LoRA file. Forget Concept solves in closed form, in seconds.",
            is_output_node=True,
            inputs=train_inputs(),
            outputs=shared_inputs.patch_outputs("The loss and the attention mass."),
        )

    @classmethod
    def validate_inputs(cls, method=RESTEERING):
        # The host does not check an input that validate_inputs names: the closed form of older graphs is not in the list.
        return method in METHODS or f"Expected a method of the list ({', '.join(METHODS)}), got {method!r}. Choose one."

    @classmethod
    def execute(cls, model, clip, file_name, **widgets) -> io.NodeOutput:
        inputs = TrainInputs(**widgets)
        with torch.inference_mode(False):
            concepts = references.concepts_to_forget(inputs.concepts, inputs.typed_concept())
            file = destination.for_patch(phrases.file_name_of(file_name, concepts))
            adapter = trained_model(model, clip)
            check_concepts(adapter, concepts)
            training = Training(adapter, concepts, inputs.options or DEFAULTS, inputs.seed, inputs.vae, inputs.pairs)
            patch = _train(training, inputs).as_stored()
        patched, matched = host.apply_patch(model, patch, 1.0)
        saved = file.save_patch(patch)
        report = "\n".join([*saved.warning, reports.training_report(patch, matched, saved), *inputs.unused()])
        plot = pictures.training_plot(patch.figures, f"{inputs.method}: {training.title}")
        return io.NodeOutput(
            patched, patch, plot, report, ui={"text": (report,), "fmn_related": (reports.related_names(patch),)}
        )


def _train(training: Training, inputs: TrainInputs) -> ForgetPatch:
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
        return closed_form(training, replace(training.options.closed_form, **shared))
    gradient = training.options.gradient
    return by_gradient(
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
