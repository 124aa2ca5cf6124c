"""What trainings need of a transformer: predictions of a flow, and its joint attention to text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...fmn_core.attention.zeroing import attention_probabilities
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.entries import CONTEXT, TextEntry
from ...fmn_core.model.layers import WHOLE_NETWORK
from ...fmn_core.model.sampler import GUIDANCE
from ...fmn_core.model.tokens import EncodedPrompt
from .. import host
from .host_model import HostModel
from .zeroed_sampling import zeroed_joint_attention

Replacement = Callable[[host.JointAttention], torch.Tensor]


class FlowModel(HostModel):
    """The parts of ForgetModel that are alike for transformers with joint attention, which predict a flow."""

    family: host.TransformerFamily
    text_entries: Callable[[], list[TextEntry]]

    def use_model(self, patcher: Any) -> None:
        """Sets the MODEL, which is not changed."""
        super().use_model(patcher)
        self.guidance = host.native_guidance(patcher) or GUIDANCE
        self._replacements: list[Replacement] = []

    # --- layers ---

    def attention_layers(self) -> list[str]:
        """See ForgetModel.attention_layers."""
        return host.joint_layers(self.patcher) or []

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        """See ForgetModel.linear_layers."""
        return host.linear_layers(self.patcher)

    def trained_layers(self, choice: str) -> dict[str, torch.nn.Module]:
        """See ForgetModel.trained_layers. Text and picture have one layer for queries, keys and values."""
        if choice == WHOLE_NETWORK:
            return self.linear_layers()
        entries = [entry.path for entry in self.text_entries() if entry.reads == CONTEXT]
        layers = self.linear_layers()
        patterns = {"keys and values": self.family.text_stream, "attn2": self.family.attention}
        if choice not in patterns:
            raise ForgetError(
                f"Expected to train auto, {', '.join((*patterns, WHOLE_NETWORK))} of {self.family.name}, which has one layer for queries, keys "
                f"and values, got {choice!r}. Choose one of these."
            )
        return {path: layers[path] for path in [*entries, *host.linear_layers(self.patcher, patterns[choice])]}

    def blocks(self) -> list[torch.nn.Module]:
        """None: what replaces joint attention counts its layers, and cannot run a block again."""
        return []

    def changing_in_place(self) -> list[torch.nn.Module]:
        """The transformer."""
        return [self.patcher.model.diffusion_model]

    # --- attention ---

    @contextlib.contextmanager
    def probe_attention(self, receive: Callable[[Any, torch.Tensor], None]) -> Iterator[None]:
        """See ForgetModel.probe_attention."""

        def probe(layer: host.JointAttention) -> torch.Tensor:
            probabilities = attention_probabilities(layer.queries, layer.keys, layer.heads)
            receive(layer.layer, probabilities[..., : layer.text])
            return layer.attend(layer.values)

        with self._replaced(probe):
            yield

    @contextlib.contextmanager
    def scale_columns(self, weight: torch.Tensor) -> Iterator[None]:
        """See ForgetModel.scale_columns."""
        with self._replaced(lambda layer: zeroed_joint_attention(layer, weight)):
            yield

    @contextlib.contextmanager
    def _replaced(self, replacement: Replacement) -> Iterator[None]:
        self._replacements.append(replacement)
        try:
            yield
        finally:
            self._replacements.remove(replacement)

    # --- predictions ---

    def sigmas(self) -> torch.Tensor:
        """See ForgetModel.sigmas. The last noise level of a flow, at which nothing is left of the picture, would be infinite."""
        times = super().sigmas()
        times[-1] = (times[-1] + times[-2]) / 2
        return times / (1 - times)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts: Any) -> torch.Tensor:
        """See ForgetModel.denoise."""
        prompts = list[EncodedPrompt](prompts)
        options, text = self._transformer_options(sigma, prompts), len(prompts[0].whole_context)
        layers = range(len(self.attention_layers()))
        with contextlib.ExitStack() as stack:
            for replacement in self._replacements:
                stack.enter_context(host.replaced_joint_attention(options, layers, text, replacement))
            remaining = 1 / (1 + sigma)
            return self._predict(x * remaining.view(-1, 1, 1, 1), sigma * remaining, prompts, options)

    def latent_shape(self) -> tuple[int, int, int]:
        """See ForgetModel.latent_shape."""
        side = host.native_latent_side(self.patcher, 0)
        return self.patcher.model.latent_format.latent_channels, side, side
