"""Invert Concept: textual inversion, which learns from pictures an embedding that prompts can name."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.concepts.concept import concept_from_text
from ...fmn_core.concepts.embedding_file import Embedding, load_embedding
from ...fmn_core.patch.patch import fingerprint
from ...fmn_core.training.inversion import InversionSettings
from .. import host
from ..adapter import references
from ..adapter.inversion import invert_images
from ..adapter.transformer import trained_model
from ..host.node_api import ForgetConceptType, Menu, io
from ..ui import destination, pictures, reports, shared_inputs
from ..ui.inversion_inputs import inversion_inputs, inversion_settings
from ..ui.option_inputs import option_input
from ..web.progress import search_progress

NONE = "none"


def _inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model that is to name the concept. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model. It is not changed."),
        io.Vae.Input("vae", tooltip="Encodes the images."),
        io.Image.Input("images", tooltip="Pictures of the concept; four to ten usually do."),
        shared_inputs.kind(),
        option_input(InversionSettings, "start", default="mean"),
        option_input(InversionSettings, "words"),
        *inversion_inputs(),
        option_input(InversionSettings, "weight_decay"),
        shared_inputs.seed(),
        io.String.Input(
            "file_name",
            default="my_concept",
            tooltip=f"File under models/embeddings; {shared_inputs.NEVER_OVERWRITTEN}",
        ),
        io.Mask.Input("mask", optional=True, tooltip="Where in the images the concept is; the rest is not learned."),
        io.Combo.Input(
            "continue_from",
            options=[NONE, *host.embedding_files()],
            default=NONE,
            optional=True,
            tooltip="An embedding to go on from, in place of words.",
        ),
    ]


class InvertConcept(io.ComfyNode):
    """Node that learns token embeddings of a concept from pictures and saves them."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_InvertConcept",
            display_name="Invert Concept",
            category=Menu.TRAINING,
            description="Textual inversion: learns token embeddings from pictures, with the model and its text encoder unchanged, "
            "and saves them as an embedding that any prompt names as embedding:NAME.",
            is_output_node=True,
            inputs=shared_inputs.with_advanced(_inputs(), "warmup", "batch", "weight_decay", "continue_from"),
            outputs=[
                ForgetConceptType.Output(
                    display_name="concept", tooltip="The inverted concept with its images, for any forget node."
                ),
                io.String.Output(
                    display_name="embedding", tooltip="How a prompt names it: embedding:NAME. Empty without a file."
                ),
                io.Image.Output(display_name="plot", tooltip="The loss over the steps."),
                io.String.Output(display_name="report", tooltip="What was done and measured, in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        images,
        kind,
        start,
        words,
        weight_decay,
        file_name,
        mask=None,
        continue_from=NONE,
        **inversion_widgets,
    ) -> io.NodeOutput:
        file = destination.for_embedding(file_name)
        with torch.inference_mode(False):
            adapter = trained_model(model, clip)
            images = references.checked_images(images)
            mask = references.checked_masks(mask, images)
            start_embedding = (
                None if continue_from == NONE else load_embedding(host.embedding_path(continue_from)).vectors
            )
            settings = inversion_settings(**inversion_widgets, start=start, words=words, weight_decay=weight_decay)
            progress = search_progress("inversion", settings.steps, [])
            inversion = invert_images(adapter, vae, images, mask, kind, settings, start_embedding, progress)
            base = fingerprint(adapter)
        saved = file.save_embedding(Embedding(inversion.embedding, words, kind, inversion.figures["steps"], base))
        concept = concept_from_text("", kind, embedding=inversion.embedding, images=images, masks=mask)
        prompt_name = f"embedding:{saved.path.stem}" if saved.path else ""
        plot = pictures.to_image(pictures.curves({"loss": inversion.figures["losses"]}, settings.steps, "inversion"))
        report = reports.inversion_report(inversion, saved)
        return io.NodeOutput((concept,), prompt_name, plot, report, ui={"text": (report,)})
