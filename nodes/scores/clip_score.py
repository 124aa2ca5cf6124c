"""CLIP Score: the mean cosine of pictures with their prompts."""

from __future__ import annotations

from ...fmn_core.concepts.templates import split_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.clip_score import similarities
from ..adapter.references import checked_images
from ..host.node_api import Menu, io
from . import score_rows


class ClipScore(io.ComfyNode):
    """Scores how well pictures fit their prompts."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ClipScore",
            display_name="CLIP Score",
            category=Menu.MEASURE,
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
                score_rows.image_text_input(),
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
        prompts = split_lines(text)
        if not prompts:
            raise ForgetError("Expected a text that the pictures should fit, got none. Type their prompt.")
        model = score_rows.check_image_text(image_text)
        cosines = similarities(model, checked_images(images), prompts).tolist()
        mean = sum(cosines) / len(cosines)
        note = f"{len(cosines)} pictures, judged by {model.name}"
        row = score_rows.score_row("CLIP score", mean, cosines, note, label)
        return io.NodeOutput(score_rows.append_rows(scores, [row]), mean, score_rows.scores_report([row]))
