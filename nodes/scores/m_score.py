"""M-Score: whether pictures of a concept, inverted on a model that forgot it, still come out as its name."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.concepts.concept import Concept
from ...fmn_core.concepts.templates import default_templates
from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.m_score import MScore, TextFeatures, m_score, pooled_features
from ...fmn_core.training.augmentation import AugmentSettings
from .. import host
from ..adapter import references
from ..adapter.model import ComfyModel
from ..adapter.text import ComfyText
from ..host.node_api import CATEGORY, io
from ..ui import pictures, reports, shared_inputs
from ..ui.inversion_inputs import inversion_inputs, inversion_settings
from . import score_rows

# The templates without an ending, which are also the ones that the vectors are learned in.
TEMPLATES = 7


def _inputs() -> list[Any]:
    return [
        io.Model.Input("model_before", tooltip="The model as it was. It is not changed."),
        io.Model.Input("model_after", tooltip="The same model with the patch. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to both."),
        io.Vae.Input("vae", tooltip="Encodes the images."),
        io.Image.Input(
            "images", tooltip="Probe pictures of the concept, four or more, real or made by the model before."
        ),
        io.String.Input(
            "phrase", default="", tooltip="The concept's name, which the inverted prompts are compared with."
        ),
        shared_inputs.kind(),
        *inversion_inputs(),
        shared_inputs.seed(),
        score_rows.image_text(
            optional=True,
            tooltip="Only the miniature's, whose text projection can take vectors. Without it: the CLIP's own pooled output.",
        ),
        *score_rows.optional_inputs(),
    ]


class MScoreNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_MScore",
            display_name="M-Score",
            category=CATEGORY,
            description="Memorization score: inverts pictures of the concept on the model before and after forgetting, from the same noise, "
            "and compares what is found with the concept's name. Lower after than before means forgotten.",
            inputs=_inputs(),
            outputs=[
                score_rows.scores_output(),
                io.Float.Output(display_name="before", tooltip="The cosine with the model as it was, -1 to 1."),
                io.Float.Output(display_name="after", tooltip="The cosine with the model that forgot, -1 to 1."),
                score_rows.report_output(),
            ],
        )

    @classmethod
    def execute(
        cls,
        model_before,
        model_after,
        clip,
        vae,
        images,
        phrase,
        kind,
        seed,
        image_text=None,
        label="",
        scores=None,
        **inversion_widgets,
    ) -> io.NodeOutput:
        came = score_rows.longer(scores, [])
        with torch.inference_mode(False):
            adapters = ComfyModel(model_before, clip), ComfyModel(model_after, clip)
            images = references.checked_images(images)
            features = _features(clip, image_text)
            concept = Concept([], kind, [], images=images)
            made = references.encode_references(adapters[0], vae, concept, AugmentSettings(), seed)
            templates = default_templates(kind)[:TEMPLATES]
            settings = inversion_settings(**inversion_widgets, seed=seed, start="noise")
            bar = host.Progress(2 * settings.steps)
            found = m_score(*adapters, made, phrase, templates, settings, features, _ready, _progress_callback(bar))
        rows = rows_of(
            found, "the miniature's text projection" if image_text is not None else "CLIP's pooled output", label
        )
        return io.NodeOutput([*came, *rows], found.before, found.after, score_rows.report(rows) + losses_of(found))


class PooledText(ComfyText):
    """A CLIP whose encoded prompts always carry its pooled output."""

    def wants_pooled(self) -> bool:
        return True


def _features(clip: Any, image_text: Any) -> TextFeatures:
    """The pooled output of prompts, through the projection of an image-text model that has one for it."""
    pooled = pooled_features(PooledText(clip))
    if image_text is None:
        return pooled
    project, width = getattr(image_text, "project", None), getattr(image_text, "width", None)
    if project is None or pooled("", None).numel() != width:
        raise ForgetError(
            f"Expected an image-text model that can take this CLIP's vectors, got {getattr(image_text, 'name', image_text)!r}. "
            "Disconnect it: the CLIP's own pooled output is used then."
        )
    return lambda prompt, word: project(pooled(prompt, word)[None])[0]


def _ready(adapter: ComfyModel) -> Any:
    return adapter.ready_for_gradients(text=True)


def _progress_callback(bar: host.Progress) -> Any:
    losses: list[float] = []

    def progress(done: int, total: int, figures: dict[str, float]) -> None:
        losses.append(figures["loss"])
        title = "inversions before and after"
        bar.update(done, total, pictures.curves({"loss": losses}, total, title) if done % 5 == 0 else None)

    return progress


def rows_of(found: MScore, features: str, label: str) -> list[dict[str, Any]]:
    note = f"cosine over {len(found.each_before)} prompts, {features}"
    named = (("M-Score before", found.before, found.each_before), ("M-Score after", found.after, found.each_after))
    return [score_rows.row(name, value, each, note, label) for name, value, each in named]


def losses_of(found: MScore) -> str:
    """What the inversions reached: one that did not learn says nothing of memory."""
    both = (("before", found.original), ("after", found.forgetting))
    return "".join(f"\n{reports.fifths(f'loss {name}', inversion.figures['losses'])}" for name, inversion in both)
