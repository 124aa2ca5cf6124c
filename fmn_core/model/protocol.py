"""The protocol through which the method talks to a diffusion model; each host has an adapter that follows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .tokens import EncodedPrompt, LearnedEmbedding, Vocabulary

# The linear layers of cross-attention, by their names in diffusers and in the host alike.
PROJECTION_NAMES = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass
class CrossAttention:
    """One cross-attention layer ("attn2") of the UNet.

    Attributes
    ----------
    name
        The layer's path in the diffusers UNet.
    heads
        Number of attention heads.
    projections
        The modules `to_q`, `to_k`, `to_v` and `to_out.0`. Each maps the last dimension and has a `weight`.
    """

    name: str
    heads: int
    projections: dict[str, torch.nn.Module]


class TextModel(Protocol):
    """The text encoders of a model, which is all that merging and measuring patches need."""

    vocabulary: Vocabulary

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        """Token ids of a phrase per text encoder, without start, end and padding."""
        ...

    def encode(
        self, prompts: list[str], words: Sequence[LearnedEmbedding | None] | None = None, padding: int | None = None
    ) -> list[EncodedPrompt]:
        """Encodes prompts with the model's own text encoders.

        Parameters
        ----------
        prompts
            The prompts; each is encoded by itself.
        words
            For each prompt, the learned embedding that stands wherever the prompt has PLACEHOLDER. Where its vectors want
            gradients, the contexts carry them.
        padding
            The least number of padding rows to return; None returns all rows. Contexts of one chunk end after these rows,
            which saves most of the work, and may have no pooled embedding. The rows that are returned are the same, because
            the rows of a causal encoder do not depend on later ones.

        Returns
        -------
        The encoded prompts, with contexts in float32 on the CPU.
        """
        ...

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        """The table of token embeddings (vocabulary, width) of each text encoder.

        The table is the encoder's own, in its precision and on its device. Read it with token_table and never change it.
        """
        ...


class ForgetModel(TextModel, Protocol):
    """A text-to-image model with cross-attention.

    Shapes: latents are (B, C, h, w) in the model's own scale; sigma (B,) is the noise level of x = x0 + sigma e, which is
    variance-exploding for eps and v-prediction alike; a context is (B, l, d).
    """

    device: torch.device

    def cross_attention(self) -> list[CrossAttention]:
        """The cross-attention layers, in the order in which a forward pass runs them."""
        ...

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        """Every linear layer of the UNet by its diffusers path: the layers that "whole UNet" trains."""
        ...

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        """Copies of the effective weights of cross-attention projections, with the user's patches applied.

        Parameters
        ----------
        names
            Pairs of a layer's name and a projection's name.
        device
            Where to copy the weights; None leaves each on its layer's device.

        Returns
        -------
        Weights (out, in) in float32. Each is computed only when it is indexed.
        """
        ...

    def sigmas(self) -> torch.Tensor:
        """Noise level of every training timestep, (T,), increasing."""
        ...

    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of a latent at the size the model was trained at."""
        ...

    def encode_images(self, images: torch.Tensor, vae: Any = None) -> torch.Tensor:
        """Encodes images with a VAE.

        Parameters
        ----------
        images
            (B, H, W, 3) in 0..1.
        vae
            The host's VAE. None takes the model's own, where the host's models bring one.

        Returns
        -------
        Latents (B, C, H/8, W/8) in the model's scale, in float32 on the CPU.
        """
        ...

    def compute_dtype(self) -> torch.dtype:
        """The precision that the UNet computes in; its weights may have another."""
        ...

    def blocks(self) -> list[torch.nn.Module]:
        """The UNet's residual and transformer blocks, which gradient checkpointing recomputes."""
        ...

    def ready_for_gradients(self, text: bool = False) -> AbstractContextManager[Any]:
        """Keeps the UNet, and with `text` the text encoders, loaded and fit for autograd while the context is open."""
        ...

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> torch.Tensor:
        """Predicts x0 (B, C, h, w) from x = x0 + sigma e in one pass of the UNet; differentiable in what hooks inject."""
        ...
