"""Concept Attention Map: shows the cross-attention of pixels to a phrase, or to any token of a prompt."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.attention.maps import AttentionMaps, attention_maps
from ...fmn_core.concepts.concept import make_concept
from ...fmn_core.concepts.token_view import token_view
from ...fmn_core.errors import plain_text
from ...fmn_core.model.tokens import CHUNK, END_TOKEN_CHOICES
from .. import host
from ..adapter.concept_columns import require_columns
from ..adapter.effective_attention import SampledModel
from ..host.node_api import Menu, io
from ..ui import pictures
from ..ui.temporary_images import save_images


class ConceptAttentionMap(io.ComfyNode):
    """Node that shows the cross-attention to a phrase over a quick picture."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ConceptAttentionMap",
            display_name="Concept Attention Map",
            category=Menu.MEASURE,
            description="Samples a quick picture of the prompt, without a VAE, and shows where it attends to the phrase: red is most. "
            "Click any token under the node to see where that one is attended to.",
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to look into, with its patches and whatever nodes like Zero Concept Attention do to its attention.",
                ),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="a picture of a zebra",
                    tooltip="The prompt to sample; it must hold the phrase.",
                ),
                io.String.Input("phrase", default="zebra", tooltip="The phrase whose attention is shown."),
                io.Combo.Input(
                    "end_token",
                    options=list(END_TOKEN_CHOICES),
                    default="all",
                    tooltip="Count end tokens as the phrase's: none, the first, or all with the padding. They carry the whole prompt and "
                    "follow the object's outline; the phrase's own tokens are often attended to beside it.",
                ),
                io.Int.Input(
                    "width", default=512, min=64, max=4096, step=64, tooltip="Picture width; 128 for the miniature."
                ),
                io.Int.Input(
                    "height", default=512, min=64, max=4096, step=64, tooltip="Picture height; 128 for the miniature."
                ),
                io.Int.Input(
                    "steps",
                    default=8,
                    min=1,
                    max=100,
                    tooltip="Sampling steps; attention of the second half is averaged.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False, tooltip="Seed of the noise."
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The attention over a preview of the picture.")],
        )

    @classmethod
    def execute(cls, model, clip, prompt, phrase, end_token, width, height, steps, seed) -> io.NodeOutput:
        adapter = SampledModel(model, clip)
        name = make_concept(adapter, phrase).phrases[0]
        encoded = adapter.encode([prompt])[0]
        columns = require_columns(adapter, encoded, [name], end_token)
        bar = host.Progress(steps)
        noise = torch.randn(
            1, adapter.latent_shape()[0], height // 8, width // 8, generator=torch.Generator().manual_seed(seed)
        )
        host.load(adapter.patcher)
        with torch.no_grad():
            maps = attention_maps(adapter, encoded, noise, steps, bar.update, adapter.watch)
        host.log.info("attention mass on %s: %.4f", plain_text(phrase, 200), float(maps.masses[columns].sum()))
        picture = host.latent_preview(model, maps.x0, (height, width))
        chips = token_view(
            encoded.tokens,
            {phrase: adapter.phrase_tokens(name)},
            adapter.vocabulary,
            end_token,
            adapter.token_text,
        )["chips"]
        overlay = pictures.heat_overlay(picture, maps.heats[columns].sum(0))
        return io.NodeOutput(overlay, ui={"fmn_attention": [_page_data(cls, picture, maps, chips, end_token)]})


def _page_data(
    cls: Any, picture: torch.Tensor, maps: AttentionMaps, chips: list[dict[str, Any]], end_token: str
) -> dict[str, Any]:
    """Data with which the page shows any token's attention over the picture.

    Returns
    -------
    dict
        `picture` and `sheet` as temporary files, and `chips`, one a token with its attention mass. The sheet holds the
        heat maps of all chips, one below the other, each scaled to 0..1; `low` and `high` of a chip undo this.
    """
    columns = [_columns(chip, end_token) for chip in chips]
    heats = torch.stack([maps.heats[c].sum(0) for c in columns])
    low, high = heats.amin((1, 2)), heats.amax((1, 2))
    scaled = (heats - low[:, None, None]) / (high - low)[:, None, None].clamp_min(1e-12)
    sheet = scaled.flatten(0, 1)[None, ..., None].expand(-1, -1, -1, 3)
    figures = [
        {"mass": round(float(maps.masses[c].sum()), 4), "low": bottom, "high": top}
        for c, bottom, top in zip(columns, low.tolist(), high.tolist())
    ]
    shown = [{**chip, **figure} for chip, figure in zip(chips, figures)]
    return {"picture": save_images(picture[None], cls)[0], "sheet": save_images(sheet, cls)[0], "chips": shown}


def _columns(chip: dict[str, Any], end_token: str) -> slice:
    """The columns that a chip stands for. That of the end tokens has the padding too, unless only the first of them counts."""
    first = chip["column"]
    if chip["end"] and end_token != "first":
        return slice(first, first - first % CHUNK + CHUNK)
    return slice(first, first + 1)
