"""The small protocol through which the method talks to a diffusion model; adapters live with their hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .tokens import EncodedPrompt, LearnedEmbedding, Vocabulary


@dataclass
class CrossAttention:
    """One attn2 layer: its diffusers module path, its number of heads and its projections by name.

    `projections` holds `to_q`, `to_k`, `to_v`, `to_out.0`: modules that map the last dimension and carry `weight`.
    """

    name: str
    heads: int
    projections: dict[str, torch.nn.Module]


class TextModel(Protocol):
    """The text encoders of a model: all that merging and measuring patches need."""

    vocabulary: Vocabulary

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        """Token ids of a phrase per text encoder, without start, end and padding."""
        ...

    def encode(
        self, prompts: list[str], words: Sequence[LearnedEmbedding | None] | None = None, padding: int | None = None
    ) -> list[EncodedPrompt]:
        """Encodes prompts one by one, with the model's own text encoder, contexts in float32 on the CPU.

        `words[i]` stands wherever prompt i has PLACEHOLDER. Where its vectors want gradients, contexts carry them. `padding`: how
        many rows of padding are wanted at least; contexts of one chunk end after them, which saves most of the work, and may have no pooled
        embedding. The rows are the same: a causal encoder's rows do not depend on later ones.
        """
        ...

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        """The table of token embeddings (vocabulary, width) of each text encoder, as the encoder holds it.

        In the encoder's precision and on its device, not a copy: see token_table for how to read it, and never change it.
        """
        ...


class ForgetModel(TextModel, Protocol):
    """What the method needs of a model.

    Shapes: latents (B, C, h, w) in the model's own scale; sigma (B,) is the noise level of x = x0 + sigma e
    (variance-exploding, for eps and v-prediction alike); context (B, l, dim).
    """

    device: torch.device

    def cross_attention(self) -> list[CrossAttention]:
        """The attn2 layers in the order in which a forward pass meets them."""
        ...

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        """Every linear layer of the UNet by its diffusers path: what "whole UNet" trains."""
        ...

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        """Effective weights (out, in) of attn2 projections by (layer, projection), float32 copies, patches of the user included.

        Each is made when it is asked for. `device`: where to; None: where the layer's weight is.
        """
        ...

    def sigmas(self) -> torch.Tensor:
        """Noise level of every training timestep, (T,), increasing."""
        ...

    def compute_dtype(self) -> torch.dtype:
        """The precision that the UNet computes in; its weights may have another."""
        ...

    def blocks(self) -> list[torch.nn.Module]:
        """The UNet's residual and transformer blocks: what gradient checkpointing recomputes."""
        ...

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> torch.Tensor:
        """Predicts x0 from x = x0 + sigma e through one UNet pass; differentiable in what hooks inject."""
        ...
