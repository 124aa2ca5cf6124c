"""M-Score: compares a concept's name with embeddings that were inverted before and after forgetting."""

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
from ..adapter.text import ComfyText
from ..adapter.transformer import TrainedModel, TransformerText, text_model, trained_model
from ..host.node_api import Menu, io
from ..ui import pictures, reports, shared_inputs
from ..ui.inversion_inputs import inversion_inputs, inversion_settings
from . import score_rows

# The first 7 templates have no ending; the vectors are learned in them too.
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
        score_rows.image_text_input(
            optional=True,
            tooltip="Only the miniature's, whose text projection can take vectors. Without it: the CLIP's own pooled output.",
        ),
        *score_rows.optional_inputs(),
    ]


class MScoreNode(io.ComfyNode):
    """Inverts pictures of a concept on two models and scores the results."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_MScore",
            display_name="M-Score",
            category=Menu.MEASURE,
            description="Memorization score: inverts pictures of the concept on the model before and after forgetting, from the same noise, "
            "and compares what is found with the concept's name. Lower after than before means forgotten.",
            inputs=shared_inputs.with_advanced(_inputs(), "tokens", "warmup", "inversion_rate", "batch"),
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
        previous = score_rows.append_rows(scores, [])
        with torch.inference_mode(False):
            adapters = trained_model(model_before, clip), trained_model(model_after, clip)
            images = references.checked_images(images)
            features = _features(clip, image_text)
            concept = Concept([], kind, [], images=images)
            latents = references.encode_references(adapters[0], vae, concept, AugmentSettings(), seed)
            templates = default_templates(kind)[:TEMPLATES]
            settings = inversion_settings(**inversion_widgets, seed=seed, start="noise")
            bar = host.Progress(2 * settings.steps)
            score = m_score(*adapters, latents, phrase, templates, settings, features, _ready, _progress_callback(bar))
        features_name = "the miniature's text projection" if image_text is not None else "CLIP's pooled output"
        rows = _m_score_rows(score, features_name, label)
        report = score_rows.scores_report(rows) + _loss_lines(score)
        return io.NodeOutput([*previous, *rows], score.before, score.after, report)


class PooledText(ComfyText):
    """A CLIP whose encoded prompts always carry its pooled output."""

    def wants_pooled(self) -> bool:
        """True: the score needs the pooled output."""
        return True


def _features(clip: Any, image_text: Any) -> TextFeatures:
    """Text features of prompts: CLIP's pooled output, projected by the image-text model where one is connected."""
    text = text_model(clip)
    pooled = pooled_features(text if isinstance(text, TransformerText) else PooledText(clip))
    if image_text is None:
        return pooled
    project, width = getattr(image_text, "project", None), getattr(image_text, "width", None)
    if project is None or pooled("", None).numel() != width:
        raise ForgetError(
            f"Expected an image-text model that can take this CLIP's vectors, got {getattr(image_text, 'name', image_text)!r}. "
            "Disconnect it: the CLIP's own pooled output is used then."
        )
    return lambda prompt, word: project(pooled(prompt, word)[None])[0]


def _ready(adapter: TrainedModel) -> Any:
    """Context in which gradients reach the token embeddings."""
    return adapter.ready_for_gradients(text=True)


def _progress_callback(bar: host.Progress) -> Any:
    """What both inversions call every step: it moves the bar and draws the loss in the node."""
    losses: list[float] = []

    def progress(done: int, total: int, figures: dict[str, float]) -> None:
        losses.append(figures["loss"])
        title = "inversions before and after"
        bar.update(done, total, pictures.curves({"loss": losses}, total, title) if done % 5 == 0 else None)

    return progress


def _m_score_rows(score: MScore, features_name: str, label: str) -> list[dict[str, Any]]:
    note = f"cosine over {len(score.each_before)} prompts, {features_name}"
    scores = (("M-Score before", score.before, score.each_before), ("M-Score after", score.after, score.each_after))
    return [score_rows.score_row(name, mean, cosines, note, label) for name, mean, cosines in scores]


def _loss_lines(score: MScore) -> str:
    """The report's lines on the losses: the score means nothing where an inversion did not learn."""
    inversions = (("before", score.original), ("after", score.forgetting))
    trends = (reports.loss_trend(f"loss {name}", inversion.figures["losses"]) for name, inversion in inversions)
    return "".join(f"\n{trend}" for trend in trends)
