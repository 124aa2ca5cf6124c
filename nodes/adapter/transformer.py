"""The adapter through which fmn_core solves for a transformer of the host, FLUX.1, and its text encoders T5 and CLIP-L."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.model.entries import TextEntry
from ...fmn_core.model.protocol import CrossAttention
from ...fmn_core.model.tokens import NO_START, EncodedPrompt, LearnedEmbedding, Vocabulary, first_end
from .. import host
from .model import ComfyModel
from .text import ComfyText, HostTokens, detached_copy, token_ids

# The encoder whose rows are the context, and all encoders, by their names in the host.
ROWS_OF, ENCODERS = "t5xxl", {"l", "t5xxl"}
# Prompts that T5 takes at once: each has at least 256 rows.
_BATCH = 8
# Padding rows to return at least: they see the whole prompt and their place, so that one does not stand for all as CLIP's does.
_PADDING = 64


class TransformerText(ComfyText):
    """The tokens of a CLIP of FLUX.1: those of T5, whose rows the context has. CLIP-L gives the pooled embedding alone."""

    # Single tokens of T5's vocabulary and of CLIP's.
    markers = "*|"

    def _find_tokenizers(self) -> dict[str, Any]:
        names = set(self.clip.tokenize(""))
        if names != ENCODERS:
            raise ForgetError(
                f"Expected a CLIP with T5-XXL and CLIP-L, as FLUX.1 takes, got one with {', '.join(sorted(names))}. "
                "Load both with DualCLIPLoader, type flux."
            )
        return {name: host.part_of(self.clip.tokenizer, name) for name in (ROWS_OF, "l")}

    def _vocabulary(self) -> Vocabulary:
        rows = self._tokenizers[ROWS_OF]
        return Vocabulary(NO_START, rows.end_token, {ROWS_OF: rows.pad_token})

    def tokenize(self, text: str) -> dict[str, list[list[int]]]:
        """Token ids of a text in T5's vocabulary."""
        return {ROWS_OF: token_ids(self._host_tokens(text))[ROWS_OF]}


class ComfyTransformer(TransformerText):
    """What the closed form needs of a MODEL and a CLIP of FLUX.1; neither is changed.

    Raises
    ------
    ForgetError
        The CLIP is None, or lacks one of the two encoders.
    """

    def __init__(self, patcher: Any, clip: Any):
        self.patcher, self.device = patcher, patcher.load_device
        super().__init__(clip)
        entry, *_ = self.text_entries()
        width, wanted = self.encode([""])[0].context.shape[1], self.weights([entry.name])[0].shape[1]
        if width != wanted:
            raise ForgetError(
                f"Expected a CLIP of width {wanted} for this MODEL, got {width}. Connect the CLIP that belongs to the MODEL."
            )

    def encode(
        self, prompts: list[str], words: Sequence[LearnedEmbedding | None] | None = None, padding: int | None = None
    ) -> list[EncodedPrompt]:
        """See TextModel.encode. T5 sees its padding, so that all of it is encoded even where few rows of it are returned."""
        tokens = [self._prompt_tokens(p, w) for p, w in zip(prompts, words or [None] * len(prompts))]
        encoded = []
        for start in range(0, len(prompts), _BATCH):
            batch = tokens[start : start + _BATCH]
            contexts, pooled = self._batch(batch) if _same_length(batch) else _joined(self._batch([t]) for t in batch)
            for prompt, parts, context, vector in zip(prompts[start:], batch, contexts, pooled):
                ids = {ROWS_OF: token_ids({ROWS_OF: parts[ROWS_OF]})[ROWS_OF]}
                end = first_end(ids[ROWS_OF][0], self.vocabulary)
                rows = len(context) if padding is None else min(len(context), end + 1 + max(padding, _PADDING))
                encoded.append(EncodedPrompt(prompt, ids, context[:rows], vector, causal=False))
        return encoded

    def _batch(self, batch: list[HostTokens]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Contexts (l, d) and pooled embeddings (1, width) of prompts whose tokens are equally many."""
        joined = {name: [chunk for tokens in batch for chunk in tokens[name]] for name in batch[0]}
        with host.every_pooled(self.clip) as outputs:
            context, _ = self._run_encoder(self._on_device(joined), False)
        # A prompt of more than 75 tokens has several chunks for CLIP-L, of which the host takes the first one's vector.
        first = torch.tensor([sum(len(t["l"]) for t in batch[:n]) for n in range(len(batch))])
        return list(context[0].chunk(len(batch))), list(detached_copy(outputs[0])[first].split(1))

    def text_entries(self) -> list[TextEntry]:
        """See ForgetModel.text_entries."""
        return host.transformer_entries(self.patcher)

    def cross_attention(self) -> list[CrossAttention]:
        """None: text is a stream of its own."""
        return []

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        """See ForgetModel.weights."""
        paths = [TextEntry(*name).path for name in names]
        return host.effective_weights(self.patcher, [f"diffusion_model.{path}.weight" for path in paths], device)


def closed_form_model(patcher: Any, clip: Any) -> ComfyModel | ComfyTransformer:
    """The adapter of a MODEL for the closed form, which is all that transformers can have so far."""
    return ComfyTransformer(patcher, clip) if host.is_transformer(patcher) else ComfyModel(patcher, clip)


def _same_length(batch: list[HostTokens]) -> bool:
    return len({len(chunk) for tokens in batch for chunk in tokens[ROWS_OF]}) == 1


def _joined(parts: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    contexts, pooled = zip(*parts)
    return [c for part in contexts for c in part], [p for part in pooled for p in part]
