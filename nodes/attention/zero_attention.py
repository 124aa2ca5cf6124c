"""Zero Concept Attention: takes the attention from a phrase while the model samples, without training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ...fmn_core.concepts.concept import make_concept
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.model.layers import choose_layers
from ...fmn_core.model.tokens import END_TOKEN_CHOICES
from .. import host
from ..adapter.concept_columns import ConceptColumns
from ..adapter.model import ComfyModel
from ..adapter.transformer import ComfyTransformer
from ..adapter.transformer_columns import TransformerColumns
from ..adapter.zeroed_sampling import Replace, ZeroAttention, in_cross_attention, in_joint_attention
from ..host.node_api import Menu, io
from ..ui.shared_inputs import percent_input, with_advanced


def _concept_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model to sample with. A patched clone comes out."),
        io.Clip.Input("clip", tooltip="The CLIP that encodes the prompts."),
        io.String.Input(
            "phrase",
            default="zebra",
            multiline=True,
            tooltip="What to take out of the attention, one phrase per line.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="1 takes all attention from the phrase, 0 none: A[:, I] *= 1 - strength.",
        ),
        io.Combo.Input(
            "end_token",
            options=list(END_TOKEN_CHOICES),
            default="first",
            tooltip="Also zero end tokens of prompts with the phrase: none, the first, or all with padding. All is strongest.",
        ),
    ]


def _place_inputs() -> list[Any]:
    return [
        io.String.Input(
            "layers",
            default="all",
            tooltip="Layers in which the picture looks at the text: all, down, mid, up, numbers from 0 or ranges like 3-6, joined by commas. "
            "FLUX.1, Chroma and SD 3 have only numbers.",
        ),
        percent_input("start_percent", 0.0, "Where in sampling to begin; 0 is the first step."),
        percent_input("end_percent", 1.0, "Where in sampling to stop; 1 is the last step."),
        io.Boolean.Input(
            "renormalise",
            default=False,
            tooltip="Let every pixel's attention sum to one again. Off in the paper.",
        ),
    ]


def _optional_inputs() -> list[Any]:
    return [
        io.String.Input(
            "prompts",
            default="",
            multiline=True,
            optional=True,
            tooltip="Prompts encoded by other nodes, one per line, exactly as written there. Not needed with Encode Prompt (Forget-Me-Not).",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where in the picture to take the attention: 1 there, 0 elsewhere, linear between. Stretched to the picture.",
        ),
    ]


class ZeroConceptAttention(io.ComfyNode):
    """Node that takes the attention from a phrase while the model samples."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ZeroConceptAttention",
            display_name="Zero Concept Attention",
            category=Menu.WHILE_SAMPLING,
            description="Takes the attention away from a phrase while sampling; nothing is trained. Encode prompts with "
            "Encode Prompt (Forget-Me-Not), or list prompts that other nodes encode. Prompts without the phrase are not changed.",
            inputs=with_advanced(
                [*_concept_inputs(), *_place_inputs(), *_optional_inputs()],
                "layers",
                "start_percent",
                "end_percent",
                "renormalise",
            ),
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model without attention to the phrase.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        phrase,
        strength,
        end_token,
        layers,
        start_percent,
        end_percent,
        renormalise,
        prompts="",
        mask=None,
    ) -> io.NodeOutput:
        adapter, columns, replace = _joint(model, clip, layers) or _cross(model, clip, layers)
        concept = make_concept(adapter, phrase)
        sampling = model.get_model_object("model_sampling")
        sigmas = (sampling.percent_to_sigma(start_percent), sampling.percent_to_sigma(end_percent))
        zero = ZeroAttention(columns(concept.phrases, end_token, strength), replace, sigmas, mask)
        zero.columns.learn(clip, parse_lines(prompts))
        return io.NodeOutput(zero.patch(model, renormalise))


# Makes the columns of phrases, with an end-token choice and a strength.
ColumnsOf = Callable[[list[str], str, float], ConceptColumns]


def _cross(model: Any, clip: Any, layers: str) -> tuple[ComfyModel, ColumnsOf, Replace]:
    adapter = ComfyModel(model, clip)
    numbers = choose_layers(layers, [layer.name for layer in adapter.cross_attention()])
    blocks = host.attention_blocks(model)
    return adapter, partial(ConceptColumns, adapter), in_cross_attention({blocks[n] for n in numbers})


def _joint(model: Any, clip: Any, layers: str) -> tuple[ComfyTransformer, ColumnsOf, Replace] | None:
    """What zeroes a transformer; None for any other MODEL."""
    names = host.joint_layers(model)
    if names is None:
        return None
    replace = in_joint_attention(choose_layers(layers, names))
    adapter = ComfyTransformer(model, clip)
    return adapter, partial(TransformerColumns, adapter), replace
