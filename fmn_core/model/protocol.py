"""The protocol between the method and a diffusion model; each host has an adapter that implements it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .entries import TextEntry
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
    """The text encoders of a model. Merging and measuring patches need no more of it."""

    vocabulary: Vocabulary

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        """Token ids of a phrase after another word, per text encoder, without start, end and padding."""
        ...

    def phrase_spellings(self, phrase: str) -> dict[str, list[list[int]]]:
        """Token ids of a phrase in each way that a prompt may spell it; some tokenizers spell a word otherwise at the start of a text."""
        ...

    def vector_tokens(self, phrase: str) -> dict[str, list[int]]:
        """Token ids of a phrase per text encoder that takes learned vectors, which may be more encoders than phrase_tokens has."""
        ...

    def encode(
        self, prompts: list[str], words: Sequence[LearnedEmbedding | None] | None = None, padding: int | None = None
    ) -> list[EncodedPrompt]:
        """Encodes prompts with the model's own text encoders.

        Parameters
        ----------
        prompts
            The prompts. Each is encoded independently of the others.
        words
            For each prompt, the learned embedding that stands wherever the prompt has PLACEHOLDER, or None. Where its vectors
            require gradients, the contexts carry them.
        padding
            Least number of padding rows to return; None returns all rows. Contexts of one chunk end after these rows, which
            saves most of the work.

        Returns
        -------
        The encoded prompts, with contexts in float32 on the CPU, and with pooled embeddings where the model reads them.

        Notes
        -----
        A truncated context equals the first rows of the whole one, because the rows of a causal encoder do not depend on
        later rows.
        """
        ...

    def words(self) -> dict[int, str]:
        """The whole words in the vocabulary of the first text encoder, by token id; see tokens.whole_words."""
        ...

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        """The table of token embeddings (vocabulary, width) of each text encoder.

        The table is the encoder's own, in its precision and on its device. Read it with the functions of token_table; never
        change it.
        """
        ...


class ForgetModel(TextModel, Protocol):
    """A text-to-image model with attention of the picture to text.

    Notes
    -----
    Latents are (B, C, h, w) in the model's own scale. Sigma (B,) is the noise level of x = x0 + sigma e, variance-exploding for
    models that predict the noise, v, or the flow: x = x_t / (1 - t) and sigma = t / (1 - t) of a flow at t. A context is (B, l, d).
    """

    device: torch.device
    # Scale of classifier-free guidance that pictures are sampled with; 1 where the model has its guidance built in.
    guidance: float

    def cross_attention(self) -> list[CrossAttention]:
        """The cross-attention layers, in the order in which a forward pass runs them; none in joint attention."""
        ...

    def attention_layers(self) -> list[str]:
        """Names of the layers in which the picture attends to text, in the order in which a forward pass runs them."""
        ...

    def probe_attention(self, receive: Callable[[Any, torch.Tensor], None]) -> AbstractContextManager[None]:
        """Context in which the attention of every layer of attention_layers goes to a function.

        Parameters
        ----------
        receive
            Called as receive(layer, A), with the probabilities A (B, heads, pixels, text rows), differentiable. Where the picture attends
            to itself besides, the rows of A sum to less than 1.
        """
        ...

    def scale_columns(self, weight: torch.Tensor) -> AbstractContextManager[None]:
        """Context with zero attention in every layer: A[:, i] *= 1 - s_i with the strengths `weight` (B, text rows)."""
        ...

    def trained_layers(self, choice: str) -> dict[str, torch.nn.Module]:
        """The layers whose weights a training changes, by their paths in the names of patch files.

        Raises
        ------
        ForgetError
            The model cannot train this one of TRAIN_CHOICES.
        """
        ...

    def text_entries(self) -> list[TextEntry]:
        """The linear maps that text enters: keys and values of cross-attention, and what reads the pooled embedding, if anything."""
        ...

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        """Every linear and convolution layer of the UNet by its diffusers path: the layers that "whole UNet" trains."""
        ...

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        """Copies of the effective weights of projections, with the user's patches applied.

        Parameters
        ----------
        names
            Pairs of a layer's name and a projection's name, of cross-attention or of text_entries.
        device
            Device of the copies; None leaves each on its layer's device.

        Returns
        -------
        Weights (out, in) in float32. Each is computed when it is indexed.
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
            The host's VAE. None takes the model's own, where the host's models have one.

        Returns
        -------
        Latents (B, C, H/8, W/8) in the model's scale, in float32 on the CPU.
        """
        ...

    def compute_dtype(self) -> torch.dtype:
        """The precision that the UNet computes in, which may differ from that of its weights."""
        ...

    def blocks(self) -> list[torch.nn.Module]:
        """The UNet's residual and transformer blocks, which gradient checkpointing recomputes."""
        ...

    def ready_for_gradients(self, text: bool = False) -> AbstractContextManager[Any]:
        """Context in which the UNet, and with `text` the text encoders, stay loaded and usable in autograd."""
        ...

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> torch.Tensor:
        """Predicts x0 in one pass of the UNet.

        Parameters
        ----------
        x
            Noised latents (B, C, h, w), x = x0 + sigma e.
        sigma
            Noise levels (B,).
        prompts
            B encoded prompts with contexts of one length.

        Returns
        -------
        x0 (B, C, h, w), differentiable with respect to tensors that hooks inject into the UNet.
        """
        ...
