"""Zero Concept Attention: forgetting at sampling time, without training."""

from __future__ import annotations

import uuid
from typing import Any

import torch

from ..fmn_core.attention import attention_probabilities, split_heads, zero_columns
from ..fmn_core.concept import make_concept
from ..fmn_core.errors import ForgetError
from ..fmn_core.layers import choose_layers
from ..fmn_core.templates import parse_lines
from ..fmn_core.tokens import CHUNK, END_TOKEN_CHOICES, concept_columns
from . import host
from .api import CATEGORY, io
from .comfy_model import ComfyModel
from .encode_prompt import TOKENS_KEY


class ZeroConceptAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ZeroConceptAttention",
            display_name="Zero Concept Attention",
            category=CATEGORY,
            description="Takes the attention away from a phrase while sampling; nothing is trained. Encode prompts with "
            "Encode Prompt (Forget-Me-Not), or list prompts that other nodes encode. Prompts without the phrase are not changed.",
            inputs=[
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
                io.String.Input(
                    "layers",
                    default="all",
                    tooltip="Cross-attention layers: all, down, mid, up, numbers from 0 or ranges like 3-6, joined by commas.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in sampling to begin; 0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in sampling to stop; 1 is the last step.",
                ),
                io.Boolean.Input(
                    "renormalise",
                    default=False,
                    tooltip="Let every pixel's attention sum to one again. Off in the paper.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Prompts encoded by other nodes, one per line, exactly as written there. Not needed with Encode Prompt (Forget-Me-Not).",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model without attention to the phrase.")],
        )

    @classmethod
    def execute(
        cls, model, clip, phrase, strength, end_token, layers, start_percent, end_percent, renormalise, prompts=""
    ) -> io.NodeOutput:
        adapter = ComfyModel(model, clip)
        concept = make_concept(adapter, phrase)
        chosen = choose_layers(layers, [layer.name for layer in adapter.cross_attention()])
        sampling = model.get_model_object("model_sampling")
        sigmas = (sampling.percent_to_sigma(start_percent), sampling.percent_to_sigma(end_percent))
        zero = ZeroAttention(
            adapter, concept.phrases, end_token, strength, {host.attention_blocks(model)[i] for i in chosen}, sigmas
        )
        zero.learn(adapter, parse_lines(prompts))
        return io.NodeOutput(zero.patch(model, renormalise))


class ZeroAttention:
    """Finds the phrase's columns in whatever conditioning arrives, and scales their values by 1 - strength.

    A conditioning carries embeddings, not tokens. Its chunks of 77 rows are therefore compared with chunks whose tokens
    are known: those of conditionings that Encode Prompt made, and those of the prompts listed in the node. So every
    prompt of a batch, negative prompts, joined and repeated conditionings each get their own columns.
    """

    def __init__(
        self,
        adapter: ComfyModel,
        phrases: list[str],
        end_token: str,
        strength: float,
        blocks: set,
        sigmas: tuple[float, float],
    ):
        self.key = f"fmn_zero_{uuid.uuid4().hex}"
        self.vocabulary, self.end_token, self.strength, self.blocks, self.sigmas = (
            adapter.vocabulary,
            end_token,
            strength,
            blocks,
            sigmas,
        )
        self.phrases: dict[str, list[list[int]]] = {}
        for phrase in phrases:
            for encoder, ids in adapter.phrase_tokens(phrase).items():
                self.phrases.setdefault(encoder, []).append(ids)
        self.listed: list[
            tuple[torch.Tensor, torch.Tensor]
        ] = []  # known chunk (77, dim), strength of its columns (77,)
        self.tagged: list[tuple[torch.Tensor, torch.Tensor]] = []

    def learn(self, adapter: ComfyModel, prompts: list[str]) -> None:
        """Remembers prompts encoded elsewhere; the empty prompt is always known."""
        for prompt in adapter.encode(["", *prompts]):
            self.listed += self._chunks(prompt.context, prompt.tokens)

    def _chunks(
        self, context: torch.Tensor, tokens: dict[str, list[list[int]]]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        weight = torch.zeros(context.shape[0])
        weight[concept_columns(tokens, self.phrases, self.vocabulary, self.end_token)] = self.strength
        return list(zip(context.float().cpu().split(CHUNK), weight.split(CHUNK)))

    # --- hooks into sampling ---

    def patch(self, model: Any, renormalise: bool) -> Any:
        clone = model.clone()
        host.wrap_sampling(clone, self.key, self.around_sampling, self.around_unet)
        if renormalise:
            for block in self.blocks:
                host.replace_attention(clone, block, self.renormalised_attention)
        else:
            clone.set_model_attn2_patch(self.scale_values)
        return clone

    def around_sampling(self, executor: Any, *args, **kwargs):
        """Collects the tokens that conditionings carry; raises ForgetError when no prompt of the sampling is known."""
        conds = [c for group in executor.class_obj.conds.values() for c in group if c.get("cross_attn") is not None]
        self.tagged = []
        for cond in conds:
            if TOKENS_KEY in cond:
                for row in cond["cross_attn"]:
                    self.tagged += self._chunks(row, cond[TOKENS_KEY])
        worded = [c for c in conds if not self._is_empty(c)]
        if worded and not any(self.find(c["cross_attn"])[1] for c in worded):
            raise ForgetError(
                "Zero Concept Attention knows none of the prompts of this sampling. Encode them with Encode Prompt "
                "(Forget-Me-Not), or write them into its `prompts` box exactly as they are encoded."
            )
        try:
            return executor(*args, **kwargs)
        finally:
            self.tagged = []

    def _is_empty(self, cond: dict[str, Any]) -> bool:
        context = cond["cross_attn"]
        return all(_same(chunk, self.listed[0][0]) for row in context for chunk in row.split(CHUNK))

    def find(self, context: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Strength of every column of a context (B, l, dim): (B, l), and whether any chunk was known."""
        weight, known = torch.zeros(context.shape[:2]), False
        for b, row in enumerate(context):
            for start in range(0, row.shape[0], CHUNK):
                chunk = row[start : start + CHUNK]
                match = next((w for c, w in (*self.tagged, *self.listed) if _same(chunk, c)), None)
                if match is not None:
                    weight[b, start : start + CHUNK] = match
                    known = True
        return weight, known

    def around_unet(
        self, executor: Any, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs
    ):
        options = transformer_options if transformer_options is not None else {}
        options.pop(self.key, None)
        sigma = options.get("sigmas")
        active = sigma is None or self.sigmas[1] <= float(sigma.max()) <= self.sigmas[0]
        if context is not None and active:
            weight, _ = self.find(context)
            if weight.any():
                options[self.key] = weight.to(context.device)
        return executor(x, timesteps, context, y, control, options, **kwargs)

    def _weight(self, extra_options: dict[str, Any], length: int) -> torch.Tensor | None:
        """The columns' strength in this layer, padded for tokens that other patches appended; None where nothing is to do."""
        weight = extra_options.get(self.key)
        if weight is None or (*extra_options["block"], extra_options["block_index"]) not in self.blocks:
            return None
        return torch.nn.functional.pad(weight[:, :length], (0, max(0, length - weight.shape[1])))

    def scale_values(self, n, context, value, extra_options):
        """attn2 patch: v_i *= 1 - s, which equals A[:, i] *= 1 - s because to_v has no bias."""
        weight = self._weight(extra_options, value.shape[1])
        return n, context, value if weight is None else value * (1 - weight)[..., None].to(value.dtype)

    def renormalised_attention(self, q, k, v, extra_options):
        """attn2 replacement: attention whose rows sum to one after the columns were scaled."""
        weight = self._weight(extra_options, k.shape[1])
        if weight is None:
            return host.attention(q, k, v, extra_options)
        probabilities = zero_columns(attention_probabilities(q, k, extra_options["n_heads"]), weight, renormalise=True)
        out = probabilities.to(v.dtype) @ split_heads(v, extra_options["n_heads"])
        return out.transpose(1, 2).flatten(2)


def _same(chunk: torch.Tensor, known: torch.Tensor) -> bool:
    """Whether a chunk that reached the UNet is a known one, cast to the UNet's precision."""
    return chunk.shape == known.shape and torch.equal(chunk, known.to(chunk.device, chunk.dtype))
