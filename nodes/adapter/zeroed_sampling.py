"""Zero attention while the host samples: in the cross-attention of UNets, and in the joint attention of transformers."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from ...fmn_core.attention.masks import check_mask
from ...fmn_core.attention.zeroing import attention_probabilities, merge_heads, split_heads, zeroed_attention
from ...fmn_core.errors import ForgetError
from .. import host
from .chunk_memory import TOKENS_KEY
from .concept_columns import ConceptColumns
from .latent_areas import CallMask, LatentAreas

# Opens the context in which one call of the model has its attention replaced: options of the call, the call, its context (B, l, d).
Replace = Callable[[dict[str, Any], "ZeroedCall", torch.Tensor], AbstractContextManager[None]]


def zeroed_joint_attention(
    layer: host.JointAttention, weight: torch.Tensor, rows: torch.Tensor | None = None, renormalise: bool = False
) -> torch.Tensor:
    """zeroed_attention of a layer of joint attention, with the strengths `weight` (B, text rows) of its text columns."""
    weight = torch.nn.functional.pad(weight.to(layer.values.device), (0, layer.values.shape[1] - weight.shape[1]))
    return zeroed_attention(layer.attend, layer.values, weight, rows, renormalise)


def in_cross_attention(blocks: set[tuple[str, int, int]]) -> Replace:
    """Zeroes attn2 layers of a UNet, by the host's names of the layers."""
    return lambda options, call, context: host.replaced_attention(
        options, blocks, call.replacement, call.follow_patches
    )


def in_joint_attention(layers: set[int]) -> Replace:
    """Zeroes the attention of pixels to text in layers of a transformer in which both attend to one another, by number."""
    return lambda options, call, context: host.replaced_joint_attention(
        options, layers, context.shape[1], call.joint_attention
    )


class ZeroAttention:
    """Zeroes the attention to the phrases' columns in every call of the model during a sampling.

    Parameters
    ----------
    columns
        Finds the phrases' columns in conditionings, with the share of the attention that is taken from each.
    replace
        Replaces the layers whose attention is zeroed, see in_cross_attention and in_joint_attention.
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
        columns: ConceptColumns,
        replace: Replace,
        sigmas: tuple[float, float],
        mask: torch.Tensor | None = None,
    ):
        self.columns, self.replace, self.sigmas = columns, replace, sigmas
        self.areas = None if mask is None else LatentAreas(check_mask(mask))
        self.renormalise = False

    def patch(self, model: Any, renormalise: bool) -> Any:
        """A clone of MODEL that samples with zeroed attention, renormalised to sum to 1 at each pixel or not."""
        self.renormalise = renormalise
        clone = model.clone()
        around_conds = self.areas.around_conds if self.areas is not None else None
        key = f"fmn_zero_{uuid.uuid4().hex}"
        host.wrap_sampling(clone, key, self.around_sampling, self.around_model, around_conds)
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

    def around_model(
        self, executor: Any, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs
    ):
        """Wrapper of one call of the model: replaces attention where the call's noise level and prompts ask for it."""
        options = transformer_options if transformer_options is not None else {}
        with self._replaced(x, c_crossattn, options):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _replaced(self, x: torch.Tensor, context: torch.Tensor | None, options: dict[str, Any]):
        sigma = options.get("sigmas")
        active = sigma is None or self.sigmas[1] <= float(sigma.max()) <= self.sigmas[0]
        weight = self._weight(context, options) if context is not None and active else None
        if context is None or weight is None or not weight.any():
            return contextlib.nullcontext()
        mask = None if self.areas is None else self.areas.call_mask(x, options.get("uuids"))
        call = ZeroedCall(self.columns, weight.to(context.device), mask, self.renormalise)
        return self.replace(options, call, context)

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

    def joint_attention(self, layer: host.JointAttention) -> torch.Tensor:
        """What the picture's rows take in a layer, (B, pixels, w), without the concept; see host.replaced_joint_attention."""
        rows = None if self.mask is None else self.mask.rows(layer.queries, {})
        return zeroed_joint_attention(layer, self.weight, rows, self.renormalise)

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
