"""Zero Concept Attention: takes the attention from a phrase while the model samples, without training."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...fmn_core.attention.masks import check_mask
from ...fmn_core.attention.zeroing import attention_probabilities, merge_heads, split_heads, zeroed_attention
from ...fmn_core.concepts.concept import make_concept
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.layers import choose_layers
from ...fmn_core.model.tokens import END_TOKEN_CHOICES
from .. import host
from ..adapter.chunk_memory import TOKENS_KEY
from ..adapter.concept_columns import ConceptColumns
from ..adapter.latent_areas import CallMask, LatentAreas
from ..adapter.model import ComfyModel
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
            tooltip="Cross-attention layers: all, down, mid, up, numbers from 0 or ranges like 3-6, joined by commas.",
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
        adapter = ComfyModel(model, clip)
        concept = make_concept(adapter, phrase)
        layer_numbers = choose_layers(layers, [layer.name for layer in adapter.cross_attention()])
        sampling = model.get_model_object("model_sampling")
        sigmas = (sampling.percent_to_sigma(start_percent), sampling.percent_to_sigma(end_percent))
        blocks = {host.attention_blocks(model)[i] for i in layer_numbers}
        zero = ZeroAttention(adapter, concept.phrases, end_token, strength, blocks, sigmas, mask)
        zero.learn(adapter, parse_lines(prompts))
        return io.NodeOutput(zero.patch(model, renormalise))


class ZeroAttention:
    """Zeroes the attention to the phrases' columns in every UNet call of a sampling.

    Parameters
    ----------
    strength
        Share of the attention that is taken, 0..1.
    blocks
        The host's names of the layers.
    sigmas
        First and last noise level, high to low.
    mask
        Where in the picture attention is taken, (H, W) or (B, H, W) in 0..1; None: everywhere.

    Raises
    ------
    ForgetError
        On a mask that check_mask refuses.
    """

    def __init__(
        self,
        adapter: ComfyModel,
        phrases: list[str],
        end_token: str,
        strength: float,
        blocks: set,
        sigmas: tuple[float, float],
        mask: torch.Tensor | None = None,
    ):
        self.columns = ConceptColumns(adapter, phrases, end_token, strength)
        self.blocks, self.sigmas = blocks, sigmas
        self.areas = None if mask is None else LatentAreas(check_mask(mask))
        self.renormalise = False

    def learn(self, adapter: ComfyModel, prompts: list[str]) -> None:
        """Adds prompts that other nodes encode to the known prompts; the empty prompt is always known."""
        self.columns.learn(adapter.clip, prompts)

    def patch(self, model: Any, renormalise: bool) -> Any:
        """A clone of MODEL that samples with zeroed attention, renormalised to sum to 1 at each pixel or not."""
        self.renormalise = renormalise
        clone = model.clone()
        around_conds = self.areas.around_conds if self.areas is not None else None
        key = f"fmn_zero_{uuid.uuid4().hex}"
        host.wrap_sampling(clone, key, self.around_sampling, self.around_unet, around_conds)
        return clone

    def around_sampling(self, executor: Any, *args, **kwargs):
        """Wrapper of a sampling: learns the tokens that its conditionings carry.

        Raises
        ------
        ForgetError
            When the tokens of a prompt are not known.
        """
        conds = [c for group in executor.class_obj.conds.values() for c in group if c.get("cross_attn") is not None]
        previous_chunks = self.columns.recall(conds)
        try:
            self._require_known([c["cross_attn"] for c in conds])
            return executor(*args, **kwargs)
        finally:
            self.columns.restore(previous_chunks)

    def _require_known(self, contexts: list[torch.Tensor]) -> None:
        worded = [c for c in contexts if not self.columns.is_empty(c)]
        unknown = [c for c in worded if not self.columns.knows_tokens(c)]
        if unknown:
            part = "none" if len(unknown) == len(worded) else "only some"
            raise ForgetError(
                f"Zero Concept Attention knows {part} of the prompts of this sampling. Encode them with Encode Prompt "
                "(Forget-Me-Not), or write them into its `prompts` box exactly as they are encoded."
            )

    def around_unet(
        self, executor: Any, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs
    ):
        """Wrapper of one UNet call: replaces attn2 where the call's noise level and prompts ask for it."""
        options = transformer_options if transformer_options is not None else {}
        sigma = options.get("sigmas")
        active = sigma is None or self.sigmas[1] <= float(sigma.max()) <= self.sigmas[0]
        weight = self._weight(context, options) if context is not None and active else None
        if context is None or weight is None or not weight.any():
            return executor(x, timesteps, context, y, control, options, **kwargs)
        mask = None if self.areas is None else self.areas.call_mask(x, options.get("uuids"))
        call = ZeroedCall(self.columns, weight.to(context.device), mask, self.renormalise)
        with host.replaced_attention(options, self.blocks, call.replacement, call.follow_patches):
            return executor(x, timesteps, context, y, control, options, **kwargs)

    def _weight(self, context: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        if TOKENS_KEY in options:
            return torch.stack([self.columns.column_strengths(tokens) for tokens in options[TOKENS_KEY]])
        return self.columns.find(context)[0]


@dataclass
class ZeroedCall:
    """One UNet call with zeroed attention.

    Parameters
    ----------
    columns
        Finds the concept columns of a context.
    weight
        Share that is taken from each column of the call's context, (B, l) in 0..1.
    mask
        Share of the effect at each pixel; None: everywhere.
    renormalise
        Whether each pixel's attention sums to 1 again.
    """

    columns: ConceptColumns
    weight: torch.Tensor
    mask: CallMask | None
    renormalise: bool

    def replacement(self, before: Callable | None) -> ZeroedAttention:
        """The attn2 replacement of one layer; it calls `before`, the replacement that another node made."""
        zeroed = ZeroedAttention(self, before)
        if self.renormalise and not zeroed.linear_before:
            raise ForgetError(
                "Expected attn2 layers that no other node replaces, got one that is taken. Switch `renormalise` off, or remove that node."
            )
        return zeroed

    def follow_patches(self, n, context, value, extra_options):
        """attn2 patch that finds the columns again after another patch appended tokens or split the batch."""
        if context.shape[:2] != self.weight.shape:
            weight, known = self.columns.find(context)
            if not known.all():
                raise ForgetError(
                    "Expected attention to conditionings of this sampling, got others from a node that patches attn2. "
                    "Write their prompts into the `prompts` box, or remove that node."
                )
            extra_options[self.key] = weight.to(context.device)
        return n, context, value

    @property
    def key(self) -> str:
        """Key of extra_options for a layer's column weights, where they differ from the call's."""
        return f"fmn_weight_{id(self)}"


@dataclass
class ZeroedAttention:
    """The attn2 replacement of one layer; it calls the replacement of another node, or the host's attention."""

    call: ZeroedCall
    before: Callable | None

    @property
    def linear_before(self) -> bool:
        """Whether the earlier replacement is known to be linear in the values, which renormalising needs."""
        return self.before is None or (isinstance(self.before, ZeroedAttention) and self.before.linear_before)

    def __call__(self, q, k, v, extra_options):
        weight = extra_options.get(self.call.key, self.call.weight)
        rows = None if self.call.mask is None else self.call.mask.rows(q, extra_options)
        attend = self._attention(q, k, extra_options)
        return zeroed_attention(attend, v, weight, rows, self.call.renormalise).to(v.dtype)

    def _attention(self, q, k, extra_options) -> Callable[[torch.Tensor], torch.Tensor]:
        before = self.before
        if before is not None:
            return lambda values: before(q, k, values, extra_options)
        if not self.call.renormalise:
            return lambda values: host.attention(q, k, values, extra_options)
        # Renormalising divides by a row's remaining sum, which needs float32 whatever the model's precision.
        heads = extra_options["n_heads"]
        probabilities = attention_probabilities(q, k, heads)
        return lambda values: merge_heads(probabilities @ split_heads(values.to(probabilities.dtype), heads))
