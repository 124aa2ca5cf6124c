"""Picture Distance: FID, KID, CMMD or drift between two batches of pictures."""

from __future__ import annotations

from ...fmn_core.scores.distances import MEASURES, distance
from ..adapter.references import checked_images
from ..host.node_api import Menu, io
from . import score_rows


class PictureDistance(io.ComfyNode):
    """Measures the distance between two batches of pictures."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_PictureDistance",
            display_name="Picture Distance",
            category=Menu.MEASURE,
            description="FID, KID or CMMD between two batches of pictures, over the features of an image-text model, or the drift (mean squared "
            "error) of pictures of the same prompts and seeds. For what was to be kept it should be small.",
            inputs=[
                io.Image.Input("before", tooltip="Pictures of the model as it was, or real ones."),
                io.Image.Input("after", tooltip="Pictures of the model that forgot."),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    default="CMMD",
                    tooltip="CMMD needs the fewest pictures. FID and KID need the Python package torchmetrics. Drift compares picture with "
                    "picture and needs no image-text model.",
                ),
                score_rows.image_text_input(optional=True),
                *score_rows.optional_inputs(),
            ],
            outputs=[
                score_rows.scores_output(),
                io.Float.Output(display_name="distance", tooltip="The distance; 0 where nothing changed."),
                score_rows.report_output(),
            ],
        )

    @classmethod
    def execute(cls, before, after, measure, image_text=None, label="", scores=None) -> io.NodeOutput:
        before, after = checked_images(before), checked_images(after)
        model = None if image_text is None else score_rows.check_image_text(image_text)
        value = distance(measure, None if model is None else model.images, before, after)
        counts = f"{len(before)} and {len(after)} pictures"
        note = counts if measure == "drift" or model is None else f"{counts}, features of {model.name}"
        row = score_rows.score_row(measure, value, None, note, label)
        return io.NodeOutput(score_rows.append_rows(scores, [row]), value, score_rows.scores_report([row]))
