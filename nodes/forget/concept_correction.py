"""Concept Correction: a word loses its dominant meaning, which pictures show, so that its other meanings come back."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.closed_form.correction import PRESERVATION, check_meanings, correct_concept
from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.concepts.concept import Concept, concept_from_text
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.meanings import dominant_share, sample_word
from ...fmn_core.training.inversion import InversionSettings
from .. import host
from ..adapter.inversion import invert_images
from ..adapter.transformer import TrainedModel, trained_model
from ..host.node_api import ForgetConceptType, Menu, io
from ..ui import destination, pictures, reports, shared_inputs
from ..ui.inversion_inputs import inversion_inputs, inversion_settings
from ..ui.option_inputs import option_input
from ..web.progress import search_progress


def _inputs() -> list[Any]:
    inputs = [
        io.Model.Input("model", tooltip="The model that is to be corrected. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
        io.String.Input("word", default="apple", tooltip="The word, as prompts say it."),
        io.String.Input(
            "contexts",
            default="green apple",
            multiline=True,
            tooltip="Phrases in which the word has its other meanings, one per line. They are kept, and the word alone is led to them.",
        ),
        shared_inputs.kind(),
        *shared_inputs.preserve(default=PRESERVATION),
        *inversion_inputs(),
        io.Int.Input(
            "report_samples",
            default=8,
            min=0,
            max=64,
            tooltip="Pictures of the word before and after, for the report's share of the dominant meaning. 0: none.",
        ),
        option_input(ClosedFormSettings, "rank", default=32, tooltip="Upper bound of the patch's LoRA rank."),
        shared_inputs.seed(),
        shared_inputs.patch_file("correct_apple"),
        io.Vae.Input("vae", optional=True, tooltip="Encodes the images."),
        io.Image.Input("images", optional=True, tooltip="Pictures of the dominant meaning; four to ten usually do."),
        io.Mask.Input("mask", optional=True, tooltip="Where in the images the dominant meaning is."),
        ForgetConceptType.Input(
            "inverted",
            optional=True,
            tooltip="The dominant meaning as Invert Concept learned it, in place of images.",
        ),
    ]
    return shared_inputs.with_advanced(inputs, "tokens", "warmup", "batch", "rank")


class ConceptCorrection(io.ComfyNode):
    """Node that takes the dominant meaning from a word and saves the correction as a patch."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ConceptCorrection",
            display_name="Concept Correction",
            category=Menu.TRAINING,
            description="One word, several meanings, one of them dominates: inverts pictures of the dominant meaning, "
            "and leads both what it learned and the word itself to the word's other contexts.",
            is_output_node=True,
            inputs=_inputs(),
            outputs=shared_inputs.patch_outputs("Target missed and drift per layer."),
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        word,
        contexts,
        kind,
        preserve_prompts,
        preservation,
        report_samples,
        rank,
        seed,
        file_name,
        vae=None,
        images=None,
        mask=None,
        inverted=None,
        **inversion_widgets,
    ) -> io.NodeOutput:
        file, word, contexts = destination.for_patch(file_name), word.strip(), parse_lines(contexts)
        if not word:
            raise ForgetError("Expected a word to correct, got an empty text. Type the word that has several meanings.")
        with torch.inference_mode(False):
            adapter = trained_model(model, clip)
            check_meanings(adapter, word, contexts)
            if inverted:
                concept, report_lines = _connected_concept(inverted), []
            else:
                inversion = inversion_settings(**inversion_widgets, seed=seed, start="words", words=word)
                concept, report_lines = _invert_images(adapter, kind, images, vae, mask, inversion)
            settings = ClosedFormSettings(
                preservation=preservation,
                rank=rank,
                preserve_prompts=parse_lines(preserve_prompts),
            )
            bar = host.Progress(4)
            patch = correct_concept(
                adapter,
                word,
                contexts,
                concept,
                settings,
                lambda done, total, figures: bar.update(done, total),
            ).as_stored()
        patched, matched = host.apply_patch(model, patch, 1.0)
        saved = file.save_patch(patch)
        with torch.inference_mode(False):
            corrected = trained_model(patched, clip)
            report_lines += _share_lines(adapter, corrected, word, concept, contexts, report_samples, seed)
        report = "\n".join([*saved.warning, *report_lines, reports.training_report(patch, matched, saved)])
        plot = pictures.training_plot(patch.figures, f"concept correction: {word}")
        return io.NodeOutput(patched, patch, plot, report, ui={"text": (report,)})


def _share_lines(
    adapter: TrainedModel,
    corrected: TrainedModel,
    word: str,
    concept: Concept,
    contexts: list[str],
    count: int,
    seed: int,
) -> list[str]:
    """Report line on the dominant meaning's share of the bare word's pictures, before and after; none for 0 pictures.

    The untouched model classifies the pictures of both.
    """
    if not count:
        return []
    templates, shape, shares = concept.templates, adapter.latent_shape(), []
    bar = host.Progress(4)
    for number, model in enumerate((adapter, corrected)):
        host.load(model.patcher)
        latents = sample_word(model, word, templates, shape, count, seed)
        bar.update(2 * number + 1, 4)
        host.load(adapter.patcher)
        shares.append(dominant_share(adapter, latents, concept, contexts, templates))
        bar.update(2 * number + 2, 4)
    return [
        f"share of the dominant meaning in {count} pictures of {word!r}, as the untouched model tells: {shares[0]:.2f} -> {shares[1]:.2f}"
    ]


def _invert_images(
    adapter: TrainedModel, kind: str, images: Any, vae: Any, mask: Any, settings: InversionSettings
) -> tuple[Concept, list[str]]:
    """The dominant meaning as textual inversion learned it from images, and the report's lines on the inversion."""
    if images is None:
        raise ForgetError(
            "Expected images of the dominant meaning or an inverted concept, got neither. Connect one of them."
        )
    progress = search_progress("inversion", settings.steps, [])
    inversion = invert_images(adapter, vae, images, mask, kind, settings, None, progress)
    lines = reports.inversion_report(inversion, destination.SaveResult()).splitlines()[:2]
    return concept_from_text("", kind, embedding=inversion.embedding), lines


def _connected_concept(chain: tuple[Concept, ...]) -> Concept:
    """The inverted concept of a chain; raises ForgetError unless exactly one concept has a learned embedding."""
    inverted = [concept for concept in chain if concept.embedding is not None]
    if len(inverted) != 1:
        raise ForgetError(
            f"Expected one inverted concept, got {len(inverted)}. Connect the concept output of Invert Concept."
        )
    return inverted[0]
