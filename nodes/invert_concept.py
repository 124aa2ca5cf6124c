"""Invert Concept: pictures -> an embedding that the model's prompts name, for what is easier shown than said."""

from __future__ import annotations

from typing import Any

import torch

from ..fmn_core.augment import AugmentSettings
from ..fmn_core.concept import Concept, concept_from_text
from ..fmn_core.embedding_file import Embedding, load_embedding
from ..fmn_core.inversion import START_CHOICES, Inversion, InversionSettings, invert_concept
from ..fmn_core.patch import fingerprint
from . import destination, host, pictures, references, reports, shared_inputs
from .api import CATEGORY, ForgetConceptType, io
from .comfy_model import ComfyModel
from .monitor import Monitor

NONE = "none"


def settings_inputs() -> list[Any]:
    """The inversion's own settings, which Concept Correction has too."""
    return [
        io.Int.Input("tokens", default=4, min=1, max=32, tooltip="Vectors to learn. Published: 4."),
        io.Int.Input(
            "inversion_steps", default=500, min=1, max=100000, tooltip="Steps of the inversion. Published: 500."
        ),
        io.Int.Input(
            "warmup",
            default=100,
            min=0,
            max=100000,
            tooltip="Steps over which the learning rate rises. Published: 100.",
        ),
        io.Float.Input(
            "inversion_rate",
            default=1e-3,
            min=1e-7,
            max=1.0,
            step=1e-7,
            round=False,
            tooltip="Learning rate of the inversion. Published: 1e-3, to continue 1e-4.",
        ),
        io.Int.Input("batch", default=1, min=1, max=64, tooltip="Draws per step of the inversion. Published: 1."),
    ]


def _inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model that is to name the concept. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model. It is not changed."),
        io.Vae.Input("vae", tooltip="Encodes the images."),
        io.Image.Input("images", tooltip="Pictures of the concept; four to ten usually do."),
        shared_inputs.kind(),
        io.Combo.Input(
            "start",
            options=list(START_CHOICES),
            default="mean",
            tooltip="Start from words, from noise as large as the vocabulary's vectors, or from the vocabulary's mean.",
        ),
        io.String.Input("words", default="", tooltip="Words that describe the pictures, to start from."),
        *settings_inputs(),
        io.Float.Input(
            "weight_decay",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Pull of the vectors' norms to those of the vocabulary. Published: 0.1.",
        ),
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
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_InvertConcept",
            display_name="Invert Concept",
            category=CATEGORY,
            description="Textual inversion: learns token embeddings from pictures, with the model and its text encoder unchanged, "
            "and saves them as an embedding that any prompt names as embedding:NAME.",
            is_output_node=True,
            inputs=_inputs(),
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
        cls, model, clip, vae, images, kind, file_name, mask=None, continue_from=NONE, **options
    ) -> io.NodeOutput:
        file = destination.of_embedding(file_name)
        with torch.inference_mode(False):
            adapter = ComfyModel(model, clip)
            images = references.checked_images(images)
            mask = references.checked_masks(mask, images)
            start = None if continue_from == NONE else load_embedding(host.embedding_path(continue_from)).word
            settings = inversion_settings(options, options["start"], options["words"], options["weight_decay"])
            inversion = invert(adapter, vae, images, mask, kind, settings, start)
            base = fingerprint(adapter)
        saved = file.save_embedding(Embedding(inversion.word, options["words"], kind, inversion.figures["steps"], base))
        concept = concept_from_text("", kind, embedding=inversion.word, images=images, masks=mask)
        named = f"embedding:{saved.path.stem}" if saved.path else ""
        plot = pictures.to_image(pictures.curves({"loss": inversion.figures["losses"]}, settings.steps, "inversion"))
        report = report_of(inversion, saved)
        return io.NodeOutput((concept,), named, plot, report, ui={"text": (report,)})


def inversion_settings(options: dict[str, Any], start: str, words: str, weight_decay: float = 0.1) -> InversionSettings:
    """The settings in a node's widgets."""
    return InversionSettings(
        tokens=options["tokens"],
        start=start,
        words=words,
        steps=options["inversion_steps"],
        warmup=options["warmup"],
        learning_rate=options["inversion_rate"],
        weight_decay=weight_decay,
        batch=options["batch"],
        seed=options["seed"],
    )


def invert(
    adapter: ComfyModel, vae: Any, images: Any, mask: Any, kind: str, settings: InversionSettings, start: Any
) -> Inversion:
    """Inverts images with a progress bar and the loss as preview."""
    concept = Concept([], kind, [], images=images, masks=mask)
    made = references.references_of(adapter, vae, concept, AugmentSettings(), settings.seed)
    templates = concept_from_text("it", kind).templates
    bar, losses = host.Progress(settings.steps), []

    def progress(done: int, total: int, figures: dict[str, float]) -> bool:
        losses.append(figures["loss"])
        picture = pictures.curves({"loss": losses}, total, "inversion") if done % 5 == 0 else None
        bar.update(done, total, picture)
        return monitor.update(done, figures)

    with Monitor("inversion", settings.steps) as monitor, adapter.ready_for_gradients(text=True):
        return invert_concept(adapter, made, templates, settings, start, progress)


def report_of(inversion: Inversion, saved: destination.Saved) -> str:
    """What an inversion learned and where it went, a line each."""
    f, path = inversion.figures, saved.path
    count = len(next(iter(inversion.word.values())))
    lines = [f"{count} vectors, {f['steps']} steps, {f['seconds']:.1f} s", reports.fifths("loss", f["losses"])]
    if path:
        lines.append(f"saved {path.name}: write embedding:{path.stem} in a prompt")
    elif not saved.failure:
        lines.append("not saved: no file name")
    return "\n".join([*saved.warning, *lines])
