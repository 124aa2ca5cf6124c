"""Load Miniature SD: the small model that ships with the pack."""

from __future__ import annotations

from .. import host
from ..host.node_api import Menu, io


class LoadMiniature(io.ComfyNode):
    """Node that loads the miniature's MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_LoadMiniature",
            display_name="Load Miniature SD",
            category=Menu.MAIN,
            description="A complete Stable Diffusion in small (128 px, emoji art, 25 MB), shipped with the pack: try every node "
            "without any other file. Prompts: 'a picture of a zebra in noto style'; styles twemoji, noto, fluent, emojione.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The UNet; v-prediction, zero terminal SNR, 128 px."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder, with the standard CLIP tokenizer."),
                io.Vae.Output(display_name="VAE", tooltip="The image autoencoder, 8x smaller latents with 4 channels."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*host.load_miniature())
