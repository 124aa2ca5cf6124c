"""The adapter through which fmn_core solves for a transformer of the host and its text encoders."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.model.entries import TextEntry
from ...fmn_core.model.protocol import CrossAttention
from ...fmn_core.model.tokens import NO_START, EncodedPrompt, LearnedEmbedding, Vocabulary, first_end, strip_special
from .. import host
from .chunk_memory import Tokens
from .flow_model import FlowModel
from .model import ComfyModel
from .text import (
    ComfyText,
    HostTokens,
    batches_of_equal_length,
    detached_copy,
    token_ids,
    wants_gradients,
)

# Prompts that a text encoder takes at once.
_BATCH = 8
# Added to the token ids of further encoders, so that they are no ids of the first one's vocabulary.
_FURTHER = 1 << 24


class TransformerText(ComfyText):
    """fmn_core's TextModel over a CLIP of a transformer; tokens are those of the encoders whose rows the context has.

    Parameters
    ----------
    clip
        The CLIP, which is not changed.
    family
        The family of the MODEL that it belongs to; by default the first that takes such a CLIP.

    Raises
    ------
    ForgetError
        The CLIP is None, or no family of host.FAMILIES takes it.

    Notes
    -----
    Encoders that are language models wrap a prompt into a template, of which the host may cut off the beginning.
    """

    # Single tokens of the vocabularies of T5, CLIP, Qwen and Gemma.
    markers = "*|"

    def __init__(self, clip: Any, family: host.TransformerFamily | None = None):
        self._given_family = family
        super().__init__(clip)

    def _find_tokenizers(self) -> dict[str, Any]:
        family = self._given_family or host.family_of_encoders(self.clip.tokenize(""))
        if family is None:
            raise ForgetError(
                f"Expected the text encoders of a transformer that Forget Concept knows, got {', '.join(sorted(self.clip.tokenize('')))}. "
                f"It knows {', '.join(family.name for family in host.FAMILIES)}."
            )
        self.family = family
        self._row_encoders = [name for rows in family.rows for name in rows.encoders]
        self._first_encoders = family.rows[0].encoders
        return {name: host.part_of(self.clip.tokenizer, name) for name in family.encoders}

    def _vocabulary(self) -> Vocabulary:
        first = self._tokenizers[self._row_encoders[0]]
        start = NO_START if first.start_token is None else first.start_token
        pad = {name: self._tokenizers[name].pad_token for name in self._first_encoders}
        # A prompt without an end token ends where its padding begins, if it has any.
        return Vocabulary(start, first.pad_token if first.end_token is None else first.end_token, pad)

    def _marker_tokens(self, marker: str) -> dict[str, list[int]]:
        """The tokens of a marker after another word, in each text encoder's vocabulary; a tokenizer may make several of it."""
        before, after, twice = (token_ids(self._host_tokens(f"a{f' {marker}' * n}")) for n in range(3))
        tokens = {}
        for name in self._tokenizers:
            start = _equal(before[name][0], after[name][0])
            length = _equal(after[name][0][start:], twice[name][0][start:])
            tokens[name] = after[name][0][start : start + length]
        return tokens

    def _ids(self, tokens: HostTokens) -> dict[str, list[list[int]]]:
        """Token ids of the encoders whose rows the context has, with one end token for all."""
        return self._all_comparable(token_ids(tokens))

    def tokens_of_rows(self, ids: Tokens) -> list[Tokens]:
        """Token ids of each part of a context, as phrase_tokens has them, from those that the host gives."""
        comparable = self._all_comparable(ids)
        loaded = [rows for rows in self.family.rows if self._has(rows.encoders)]
        return [{name: comparable[name] for name in rows.encoders} for rows in loaded]

    def _all_comparable(self, ids: Tokens) -> Tokens:
        return {name: [self._comparable(name, chunk) for chunk in ids[name]] for name in self._row_encoders}

    def _comparable(self, name: str, chunk: list[int]) -> list[int]:
        if name in self._first_encoders:
            return chunk
        end = self._tokenizers[name].end_token
        return [self.vocabulary.end if t == end else t + _FURTHER if t >= 0 else t for t in chunk]

    @functools.cached_property
    def _templates(self) -> dict[str, tuple[int, int]]:
        """Numbers of tokens of each encoder's template before and after a prompt."""
        one, two = self._stripped("one"), self._stripped("two")
        return {name: (_equal(one[name], two[name]), _equal(one[name][::-1], two[name][::-1])) for name in one}

    def _stripped(self, text: str) -> dict[str, list[int]]:
        ids = self._ids(self._host_tokens(text))
        return {name: strip_special(chunks, self.vocabulary) for name, chunks in ids.items()}

    def _bodies(self, text: str) -> dict[str, list[int]]:
        """Token ids of a text without special tokens and template."""
        stripped = self._stripped(text)
        return {
            name: ids[self._templates[name][0] : len(ids) - self._templates[name][1]] for name, ids in stripped.items()
        }

    def tokenize(self, text: str) -> dict[str, list[list[int]]]:
        """Token ids of a text in the vocabulary of the first encoder, without its template."""
        name = self._row_encoders[0]
        has_template = any(self._templates[name])
        return {name: [self._bodies(text)[name]] if has_template else self._ids(self._host_tokens(text))[name]}

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        """See TextModel.phrase_tokens."""
        before = self._bodies("a")
        return {name: ids[len(before[name]) :] for name, ids in self._bodies(f"a {phrase}").items()}

    def phrase_spellings(self, phrase: str) -> dict[str, list[list[int]]]:
        """See TextModel.phrase_spellings."""
        first = self._bodies(phrase)
        return {
            name: [ids] if ids == first[name] else [ids, first[name]]
            for name, ids in self.phrase_tokens(phrase).items()
        }

    def vector_tokens(self, phrase: str) -> dict[str, list[int]]:
        """See TextModel.vector_tokens. The pooled embedding's encoders take vectors, too."""
        ids, own = token_ids(self._host_tokens(phrase)), {}
        for name, part in self._tokenizers.items():
            start = NO_START if part.start_token is None else part.start_token
            end = part.pad_token if part.end_token is None else part.end_token
            own[name] = strip_special(ids[name], Vocabulary(start, end, {name: part.pad_token}))
        return own

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        """See TextModel.token_embeddings; without those of encoders that were not loaded."""
        loaded = [n for n in self._tokenizers if host.part_of(self.clip.cond_stage_model, n) is not None]
        tables = {name: host.token_embedding(self.clip, name).weight.detach() for name in loaded}
        return {name: detached_copy(table) if host.quantisation(table) else table for name, table in tables.items()}

    def encode(
        self, prompts: list[str], words: Sequence[LearnedEmbedding | None] | None = None, padding: int | None = None
    ) -> list[EncodedPrompt]:
        """See TextModel.encode. Rows are as the text entries get them. An encoder that sees its padding gets all of it."""
        tokens = [self._prompt_tokens(p, w) for p, w in zip(prompts, words or [None] * len(prompts))]
        with_gradients = wants_gradients(words)
        size = 1 if with_gradients or self.family.one_by_one or len(self.family.rows) > 1 else _BATCH
        encoded: dict[int, EncodedPrompt] = {}
        for batch in batches_of_equal_length([self._lengths(t) for t in tokens], size):
            contexts, pooled = self._batch([tokens[n] for n in batch], with_gradients)
            contexts = self._as_entries_read(contexts)
            for n, context, vector in zip(batch, contexts, pooled):
                encoded[n] = self._encoded(prompts[n], tokens[n], context, vector, padding)
        return [encoded[n] for n in range(len(prompts))]

    def _lengths(self, tokens: HostTokens) -> tuple[int, ...]:
        return tuple(len(chunk) for name in self._row_encoders for chunk in tokens[name])

    def _encoded(
        self, prompt: str, tokens: HostTokens, context: torch.Tensor, pooled: torch.Tensor | None, padding: int | None
    ) -> EncodedPrompt:
        """A prompt as each of its encoders gives it."""
        ids, blocks = self._ids(tokens), list[EncodedPrompt]()
        *others, last = [rows for rows in self.family.rows if self._has(rows.encoders)]
        for rows in others:
            length = sum(len(chunk) for chunk in ids[rows.encoders[0]])
            blocks.append(self._block(rows, prompt, ids, context[:length], padding))
            context = context[length:]
        blocks.append(self._block(last, prompt, ids, context, padding))
        return replace(blocks[0], pooled=pooled, further=tuple(blocks[1:]))

    def _has(self, encoders: Sequence[str]) -> bool:
        """Whether one of these text encoders was loaded; SD 3 is often used without T5."""
        return any(host.part_of(self.clip.cond_stage_model, name) is not None for name in encoders)

    def _block(
        self, rows: host.Rows, prompt: str, ids: dict[str, list[list[int]]], context: torch.Tensor, padding: int | None
    ) -> EncodedPrompt:
        """A prompt as the encoders of some rows give it, up to `padding` rows of padding."""
        tokens = {name: ids[name] for name in rows.encoders}
        if len(tokens[rows.encoders[0]]) > 1:
            return EncodedPrompt(prompt, tokens, context, causal=rows.causal, nothing=rows.nothing)
        # The host may cut the beginning of the template off.
        chunks = {name: chunk[len(chunk) - len(context) :] for name, [chunk] in tokens.items()}
        end, count = max(first_end(chunk, self.vocabulary) for chunk in chunks.values()), len(context)
        if rows.padding == 0:
            count = min(count, end + 1)
            chunks = {name: chunk[:count] for name, chunk in chunks.items()}
        elif padding is not None:
            count = min(count, end + 1 + max(padding, rows.padding))
        tokens = {name: [chunk] for name, chunk in chunks.items()}
        return EncodedPrompt(prompt, tokens, context[:count], causal=rows.causal, nothing=rows.nothing)

    def _batch(
        self, batch: list[HostTokens], with_gradients: bool = False
    ) -> tuple[list[torch.Tensor], Sequence[torch.Tensor | None]]:
        """Contexts (l, d) and pooled embeddings (1, width) of prompts whose tokens are equally many."""
        joined = {name: [chunk for tokens in batch for chunk in tokens[name]] for name in batch[0]}
        if len(batch) == 1:
            context, pooled = self._run_encoder(joined if with_gradients else self._on_device(joined), with_gradients)
            return [context[0]], [pooled if self._has(self.family.pooled_of) else None]
        with host.every_pooled(self.clip) if self.family.pooled_of else contextlib.nullcontext([]) as outputs:
            context, _ = self._run_encoder(self._on_device(joined), False)
        # The host takes the prompts for the chunks of one, and cuts the template's beginning off the first alone.
        cut = sum(self._lengths(joined)) - context.shape[1]
        whole = torch.cat([context.new_zeros(cut, context.shape[2]), context[0]])
        contexts = [part[cut:] for part in whole.chunk(len(batch))]
        if not self.family.pooled_of:
            return contexts, [None] * len(batch)
        # A prompt of more than 75 tokens has several chunks for CLIP-L, of which the host takes the first one's vector.
        first = torch.tensor([sum(len(t["l"]) for t in batch[:n]) for n in range(len(batch))])
        return contexts, detached_copy(outputs[0])[first].split(1)

    def _as_entries_read(self, contexts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Contexts as a MODEL's text entries get them; here as they are."""
        return contexts


class ComfyTransformer(FlowModel, TransformerText):
    """What the closed form needs of a MODEL that is a transformer of host.FAMILIES, and of its CLIP; neither is changed.

    Raises
    ------
    ForgetError
        The CLIP is None, or not that of the MODEL's family.
    """

    def __init__(self, patcher: Any, clip: Any):
        self.use_model(patcher)
        super().__init__(clip, None if clip is None else self._family_of(set(clip.tokenize(""))))
        self._check_width()

    def _family_of(self, encoders: set[str]) -> host.TransformerFamily:
        families = host.transformer_families(self.patcher)
        fitting = [family for family in families if set(family.encoders) == encoders]
        if not fitting:
            wanted = ", or that of ".join(f"{family.name}, with {family.clip}" for family in families)
            raise ForgetError(f"Expected the CLIP of {wanted}. Got one with {', '.join(sorted(encoders))}.")
        return fitting[0]

    def _check_width(self) -> None:
        tokens = self._prompt_tokens("", None)
        context, _ = self._run_encoder(tokens, False)
        width, wanted = context.shape[-1], host.text_width(self.patcher, self.family)
        if width != wanted:
            raise ForgetError(
                f"Expected a CLIP of width {wanted} for this MODEL, got {width}. Connect the CLIP that belongs to the MODEL."
            )

    def _as_entries_read(self, contexts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Contexts behind the modules that stand before the text entries."""
        before = host.before_entries(self.patcher, self.family)
        if not before:
            return contexts
        rows = host.run_modules(self.patcher, before, torch.cat(contexts))
        return list(detached_copy(rows).split([len(context) for context in contexts]))

    def text_entries(self) -> list[TextEntry]:
        """See ForgetModel.text_entries."""
        return host.transformer_entries(self.patcher, self.family)

    def cross_attention(self) -> list[CrossAttention]:
        """None that can be steered by gradient."""
        return []

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        """See ForgetModel.weights."""
        paths = [TextEntry(*name).path for name in names]
        return host.effective_weights(self.patcher, [f"diffusion_model.{path}.weight" for path in paths], device)


TrainedModel = ComfyModel | ComfyTransformer


def closed_form_model(patcher: Any, clip: Any) -> TrainedModel:
    """The adapter of a MODEL for the closed form."""
    return ComfyModel(patcher, clip) if host.transformer_family(patcher) is None else ComfyTransformer(patcher, clip)


def trained_model(patcher: Any, clip: Any) -> TrainedModel:
    """The adapter of a MODEL for gradients; raises ForgetError on one whose family cannot be trained, before anything is encoded."""
    host.require_trainable(patcher)
    return closed_form_model(patcher, clip)


def text_model(clip: Any) -> ComfyText | TransformerText:
    """The adapter of a CLIP alone; raises ForgetError on one of no family that is known."""
    is_transformers = clip is not None and host.family_of_encoders(clip.tokenize("")) is not None
    return TransformerText(clip) if is_transformers else ComfyText(clip)


def _equal(one: list[int], two: list[int]) -> int:
    """Number of tokens that are equal at the beginning of two lists."""
    return next((n for n, (x, y) in enumerate(zip(one, two)) if x != y), min(len(one), len(two)))
