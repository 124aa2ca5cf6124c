"""Load Image-Text Model: a CLIP that the score nodes judge pictures with."""

from __future__ import annotations

from pathlib import Path

from ...fmn_core.errors import ForgetError
from ...fmn_core.scores.transformers_clip import TransformersClip
from .. import host
from ..host.node_api import ImageTextType, Menu, io

MINIATURE = "miniature"


class LoadImageTextModel(io.ComfyNode):
    """Node that loads an image-text model for the score nodes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_LoadImageTextModel",
            display_name="Load Image-Text Model",
            category=Menu.MEASURE,
            description="A CLIP for the score nodes: pictures and texts in one space. From a folder in models/clip_score as transformers "
            "saves it, or the small one that belongs to the miniature.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[MINIATURE, *(name for name in host.image_text_folders() if name != MINIATURE)],
                    default=MINIATURE,
                    tooltip="A folder in models/clip_score with config.json, safetensors weights, tokenizer and image processor files. "
                    "The miniature's model knows the miniature's pictures only.",
                )
            ],
            outputs=[
                ImageTextType.Output(
                    display_name="image_text",
                    tooltip="For the score nodes. It runs on the CPU and takes no GPU memory.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name=MINIATURE):
        """True, or the error's text where the model is not in the list."""
        # A parameter named model_name switches off newer hosts' own check against the list, whose message does not say
        # what to do. It is None where a wire brings the value later.
        try:
            _folder(MINIATURE if model_name is None else model_name)
        except ForgetError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model_name) -> io.NodeOutput:
        folder = _folder(model_name)
        return io.NodeOutput(TransformersClip(folder) if folder else host.load_miniature_image_text())


def _folder(model_name: str) -> Path | None:
    """Folder of an image-text model, None for the miniature's; raises ForgetError on a name that is not in the list."""
    if model_name == MINIATURE:
        return None
    folders = host.image_text_folders()
    if model_name not in folders:
        raise ForgetError(
            f"Expected a folder from the list, {model_name!r} is not there. Refresh the list, or put it into models/clip_score."
        )
    return folders[model_name]
