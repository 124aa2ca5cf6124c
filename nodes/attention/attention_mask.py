"""Attention Mask: masks the object that a phrase names by the model's cross-attention to the phrase."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.attention.mask_from_attention import (
    AUTO_LAYERS,
    MaskSettings,
    mask_from_heat,
    noise_levels,
    picture_attention,
    to_pixels,
)
from ...fmn_core.concepts.concept import make_concept
from ...fmn_core.concepts.templates import fill_template
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.tokens import END_TOKEN_CHOICES, EncodedPrompt
from .. import host
from ..adapter.concept_columns import require_columns
from ..adapter.model import ComfyModel
from ..host.node_api import Menu, io
from ..ui import shared_inputs
from ..ui.mask_overlay import check_images, mask_overlay


class AttentionMask(io.ComfyNode):
    """Node that masks a phrase's object in pictures by the model's cross-attention."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_AttentionMask",
            display_name="Attention Mask",
            category=Menu.MASKS,
            description="Masks what a phrase means in pictures, by the model's own cross-attention. The pictures are noised "
            "a little, the UNet runs once for each noise level, and the attention to the phrase is cut at a threshold.",
            inputs=shared_inputs.with_advanced(
                [*_source_inputs(), *_reading_inputs(), *_shaping_inputs()],
                "steps",
                "noise",
                "seed",
                "grow",
                "feather",
                "invert",
            ),
            outputs=[
                io.Mask.Output(display_name="MASK", tooltip="1 where the phrase attends, one mask for each picture."),
                io.Image.Output(display_name="IMAGE", tooltip="The pictures with the mask in red over them."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        images,
        phrase,
        prompt,
        end_token,
        layers,
        steps,
        noise,
        seed,
        threshold,
        grow,
        feather,
        invert,
    ) -> io.NodeOutput:
        adapter = ComfyModel(model, clip)
        images = _check_images(vae, images)
        encoded, columns = _find_phrase(adapter, phrase, prompt, end_token)
        levels = noise_levels(adapter.sigmas(), steps, noise)
        settings = MaskSettings(threshold=threshold, grow=grow, feather=feather, invert=invert)
        size = images.shape[1], images.shape[2]
        latents = adapter.encode_images(_padded(images), vae)
        report_progress, masks = host.step_counter(len(latents) * steps), []
        host.load(model)
        for latent in latents:
            with torch.no_grad():
                heat = picture_attention(adapter, encoded, columns, latent[None], levels, layers, seed, report_progress)
            masks.append(mask_from_heat(to_pixels(heat, size), settings))
        mask = torch.stack(masks)
        return io.NodeOutput(mask, mask_overlay(images, mask))


def _check_images(vae: Any, images: torch.Tensor) -> torch.Tensor:
    if vae is None:
        raise ForgetError("Expected a VAE to encode the images, got none. Connect the VAE that belongs to the MODEL.")
    return check_images(images)


def _padded(images: torch.Tensor) -> torch.Tensor:
    """Images whose sides are padded to multiples of 8 by repeating the edge, because a VAE would crop them instead."""
    height, width = images.shape[1:3]
    padded = torch.nn.functional.pad(images.movedim(-1, 1), (0, -width % 8, 0, -height % 8), mode="replicate")
    return padded.movedim(1, -1)


def _find_phrase(adapter: ComfyModel, phrase: str, prompt: str, end_token: str) -> tuple[EncodedPrompt, list[int]]:
    """The encoded prompt, or the first template in place of an empty one, and the phrase's columns in it."""
    concept = make_concept(adapter, phrase)
    encoded = adapter.encode([prompt.strip() or fill_template(concept.templates[0], concept.phrases[0])])[0]
    advice = "Write it into the prompt as it is, or leave the prompt empty."
    return encoded, require_columns(adapter, encoded, concept.phrases, end_token, advice)


def _source_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model whose attention is read. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
        io.Vae.Input("vae", tooltip="The VAE that belongs to the model; it encodes the pictures."),
        io.Image.Input("images", tooltip="The pictures to mask, at a size that the model draws well."),
        io.String.Input("phrase", default="zebra", tooltip="What to mask: a word or a name in the prompt."),
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            tooltip="A text that describes the pictures and holds the phrase. Empty: 'a photo of a' and the phrase. The text "
            "that a picture was drawn with gives the best mask.",
        ),
    ]


def _reading_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "end_token",
            options=list(END_TOKEN_CHOICES),
            default="all",
            tooltip="Count end tokens as the phrase's: none, the first, or all with the padding. They carry the whole prompt and "
            "follow the object's outline; the phrase's own tokens alone tell one thing from another.",
        ),
        io.String.Input(
            "layers",
            default=AUTO_LAYERS,
            tooltip=f"Cross-attention layers: {AUTO_LAYERS} (those of the up blocks with the finest grid), all, down, mid, up, "
            "numbers from 0 or ranges like 3-6, joined by commas.",
        ),
        io.Int.Input(
            "steps", default=4, min=1, max=50, tooltip="Noise levels; the UNet runs once for each and picture."
        ),
        io.Float.Input(
            "noise",
            default=0.4,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="The highest noise level, as a share of the timesteps; the others are spaced evenly below it.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False, tooltip="Seed of the noise."
        ),
    ]


def _shaping_inputs() -> list[Any]:
    return [
        io.Float.Input(
            "threshold",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where to cut, between the least (0) and the most (1) attention in a picture. 0: automatic, by Otsu's method.",
        ),
        io.Int.Input("grow", default=0, min=-512, max=512, tooltip="Grows the mask by pixels; negative shrinks it."),
        io.Float.Input(
            "feather", default=0.0, min=0.0, max=256.0, step=0.5, tooltip="Width of the blur of the edge, in pixels."
        ),
        io.Boolean.Input("invert", default=False, tooltip="Mask everything but the phrase."),
    ]
