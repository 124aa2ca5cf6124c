"""CLIP Score: how well pictures fit their prompts."""

from __future__ import annotations

from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.clip_score import similarities
from ..adapter.references import checked_images
from ..host.node_api import CATEGORY, io
from . import score_rows


class ClipScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ClipScore",
            display_name="CLIP Score",
            category=CATEGORY,
            description="The mean cosine of pictures with their prompts, as an image-text model sees them. For a forgotten concept it should "
            "fall, for everything else it should stay.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to judge."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="What the pictures should show: one line for all, or one a picture.",
                ),
                score_rows.image_text(),
                *score_rows.optional_inputs(),
            ],
            outputs=[
                score_rows.scores_output(),
                io.Float.Output(display_name="clip_score", tooltip="The mean cosine, -1 to 1."),
                score_rows.report_output(),
            ],
        )

    @classmethod
    def execute(cls, images, text, image_text, label="", scores=None) -> io.NodeOutput:
        prompts = score_rows.lines_of(text)
        if not prompts:
            raise ForgetError("Expected a text that the pictures should fit, got none. Type their prompt.")
        model = score_rows.checked_model(image_text)
        values = similarities(model, checked_images(images), prompts).tolist()
        mean = sum(values) / len(values)
        note = f"{len(values)} pictures, judged by {model.name}"
        row = score_rows.row("CLIP score", mean, values, note, label)
        return io.NodeOutput(score_rows.longer(scores, [row]), mean, score_rows.report([row]))
