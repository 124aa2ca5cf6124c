"""Load Miniature FLUX: the small diffusion transformer that ships with the pack."""

from __future__ import annotations

from .. import host
from ..host.node_api import Menu, io


class LoadMiniatureFlux(io.ComfyNode):
    """Node that loads the MODEL, CLIP and VAE of the miniature FLUX."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_LoadMiniatureFlux",
            display_name="Load Miniature FLUX",
            category=Menu.MAIN,
            description="A complete FLUX.1 in small (128 px, scenes of one or two things, 20 MB), shipped with the pack: see what forgetting a thing "
            "does to the rest of a picture. Prompts: 'a small panda to the left of a guitar on a blue ground, in noto style'.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The transformer; flow matching, 128 px."),
                io.Clip.Output(
                    display_name="CLIP", tooltip="The text encoders T5 and CLIP-L, with their standard tokenizers."
                ),
                io.Vae.Output(
                    display_name="VAE", tooltip="The image autoencoder, 8x smaller latents with 16 channels."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*host.load_miniature_flux())
