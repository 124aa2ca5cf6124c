"""The adapter through which fmn_core uses the text encoders of the host."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.model.tokens import (
    CHUNK,
    NO_START,
    PLACEHOLDER,
    EncodedPrompt,
    LearnedEmbedding,
    Vocabulary,
    find_subsequence,
    first_end,
    strip_special,
    vector_id,
    whole_words,
)
from ...fmn_core.model.transfer import send
from .. import host
from . import connected
from .prompt_embeddings import check_embeddings

# The host's weighted tokens: by text encoder and chunk, tuples of a token id or a vector, and a weight.
HostTokens = dict[str, list[list[tuple]]]

# Prompts that the text encoders take at once.
_BATCH = 64
# Text encoders of Stable Diffusion, by their names in the host.
_ENCODERS = ("l", "g", "h")


class ComfyText:
    """fmn_core's TextModel over a CLIP, which is not changed.

    Raises
    ------
    ForgetError
        The CLIP is None, or has a text encoder that no Stable Diffusion model has.
    """

    # Single tokens of every CLIP vocabulary. While a prompt is tokenised, one that it does not hold marks where vectors belong.
    markers = "*~^|"

    def __init__(self, clip: Any):
        if clip is None:
            raise ForgetError("Expected a CLIP, got none. Connect the CLIP output of the loader that gave the MODEL.")
        self.clip: Any = clip
        self._tokenizers = self._find_tokenizers()
        connected.remember_tokenizer(clip.tokenizer)
        self.vocabulary = self._vocabulary()
        self._marker_ids = {marker: self._marker_tokens(marker) for marker in self.markers}

    def _find_tokenizers(self) -> dict[str, Any]:
        tokenizers = {}
        for name in host.loaded_encoders(self.clip):
            tokenizer = host.part_of(self.clip.tokenizer, name) if name in _ENCODERS else None
            if tokenizer is None or tokenizer.end_token is None:
                raise ForgetError(
                    f"Expected the CLIP text encoders of Stable Diffusion, got one called {name!r}. Load an SD 1.x, 2.x or XL CLIP."
                )
            tokenizers[name] = tokenizer
        return tokenizers

    def _vocabulary(self) -> Vocabulary:
        first = next(iter(self._tokenizers.values()))
        return Vocabulary(first.start_token, first.end_token, {k: t.pad_token for k, t in self._tokenizers.items()})

    def tokenize(self, text: str) -> dict[str, list[list[int]]]:
        """Token ids of a text by encoder and chunk; vectors of an embedding have negative ids (see vector_id)."""
        return token_ids(self._host_tokens(text))

    def _marker_tokens(self, marker: str) -> dict[str, list[int]]:
        """The tokens of a marker in each text encoder's vocabulary."""
        ids = token_ids(self._host_tokens(marker))
        return {
            name: [next(t for t in ids[name][0] if t != part.start_token)] for name, part in self._tokenizers.items()
        }

    def _host_tokens(self, text: str) -> HostTokens:
        # Here and in _run_encoder, so that work on thousands of prompts can be cancelled.
        host.check_interrupted()
        check_embeddings(self.clip, text)
        # Without those of encoders that are not there, or see some prompts alone, as HunyuanImage's ByT5 words in quotes.
        return {name: chunks for name, chunks in self.clip.tokenize(text).items() if name in self._tokenizers}

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        """See TextModel.phrase_tokens."""
        return {name: strip_special(chunks, self.vocabulary) for name, chunks in self.tokenize(phrase).items()}

    def phrase_spellings(self, phrase: str) -> dict[str, list[list[int]]]:
        """See TextModel.phrase_spellings; CLIP has one spelling."""
        return {name: [ids] for name, ids in self.phrase_tokens(phrase).items()}

    def vector_tokens(self, phrase: str) -> dict[str, list[int]]:
        """See TextModel.vector_tokens."""
        return self.phrase_tokens(phrase)

    def encode(
        self, prompts: list[str], words: Sequence[LearnedEmbedding | None] | None = None, padding: int | None = None
    ) -> list[EncodedPrompt]:
        """See TextModel.encode."""
        tokens = [self._prompt_tokens(p, w) for p, w in zip(prompts, words or [None] * len(prompts))]
        with_gradients = wants_gradients(words)
        single_chunk = all(len(chunks) == 1 for t in tokens for chunks in t.values())
        if not single_chunk:
            return [self._encode_alone(p, t, with_gradients) for p, t in zip(prompts, tokens)]
        # The host encodes the chunks of a long prompt as a batch and joins them, so one call serves many prompts.
        ends = [self._end(t) for t in tokens]
        order = sorted(range(len(tokens)), key=lambda i: ends[i]) if padding is not None else range(len(tokens))
        contexts: dict[int, torch.Tensor] = {}
        pooled: dict[int, torch.Tensor] = {}
        for batch in (order[i : i + _BATCH] for i in range(0, len(order), _BATCH)):
            joined = {name: [chunk for i in batch for chunk in tokens[i][name]] for name in tokens[batch[0]]}
            rows = [CHUNK if padding is None else min(CHUNK, ends[i] + 1 + padding) for i in batch]
            with host.limit_encoder_rows(self.clip, max(rows)), host.every_pooled(self.clip) as outputs:
                context, _ = self._run_encoder(joined if with_gradients else self._on_device(joined), with_gradients)
            chunks = context[0].split(max(rows))
            contexts |= {i: chunk[:length] for i, chunk, length in zip(batch, chunks, rows)}
            if self.wants_pooled() and outputs:
                pooled |= zip(
                    batch, (outputs[0] if with_gradients else detached_copy(outputs[0])).float().cpu().split(1)
                )
        return [
            EncodedPrompt(p, token_ids(t), contexts[i], pooled.get(i)) for i, (p, t) in enumerate(zip(prompts, tokens))
        ]

    def _on_device(self, tokens: HostTokens) -> HostTokens:
        """Moves all vectors among the tokens to the text encoder's device in one copy; the host would copy each by itself."""
        entries = (t[0] for chunks in tokens.values() for chunk in chunks for t in chunk)
        vectors = {id(v): v for v in entries if isinstance(v, torch.Tensor)}
        if not vectors or self.clip.patcher.load_device.type == "cpu":
            return tokens
        moved = dict(zip(vectors, send(self.clip.patcher.load_device, *vectors.values())))
        return {
            name: [[(moved.get(id(t[0]), t[0]), *t[1:]) for t in chunk] for chunk in chunks]
            for name, chunks in tokens.items()
        }

    def _end(self, tokens: HostTokens) -> int:
        """Largest position, over the encoders, of the end token of a one-chunk prompt."""
        return max(first_end(chunk, self.vocabulary) for chunks in token_ids(tokens).values() for chunk in chunks)

    def _encode_alone(self, prompt: str, tokens: HostTokens, with_gradients: bool) -> EncodedPrompt:
        context, pooled = self._run_encoder(tokens, with_gradients)
        return EncodedPrompt(prompt, token_ids(tokens), context[0], pooled)

    def _run_encoder(self, tokens: HostTokens, with_gradients: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        host.check_interrupted()
        if with_gradients:
            self.keep_loaded()
            context, pooled = host.assume_loaded(self.clip).encode_from_tokens(tokens, return_pooled=True)
            return context.float().cpu(), None if pooled is None else pooled.float().cpu()
        with torch.inference_mode():
            context, pooled = self.clip.encode_from_tokens(tokens, return_pooled=True)
        return detached_copy(context), None if pooled is None else detached_copy(pooled)

    def _prompt_tokens(self, prompt: str, word: LearnedEmbedding | None) -> HostTokens:
        """The host's tokens of a prompt, with the vectors of a learned embedding in place of PLACEHOLDER."""
        if word is None or PLACEHOLDER not in prompt:
            return self._host_tokens(prompt)
        marker = next(m for m in self.markers if m not in prompt)
        length = len(next(iter(word.values())))
        tokens = self._host_tokens(prompt.replace(PLACEHOLDER, f" {' '.join(marker * length)} "))
        for name, chunks in tokens.items():
            vectors = itertools.cycle(word[name])
            tokens[name] = [_with_vectors(chunk, self._marker_ids[marker][name], vectors) for chunk in chunks]
        return tokens

    def token_text(self, encoder: str, token: int) -> str:
        """Spelling of a token of one text encoder; "vector" for a vector of an embedding."""
        if token < 0:
            return "vector"
        spelling = self._tokenizers[encoder].inv_vocab.get(token, "?")
        return spelling.removesuffix("</w>").lstrip("\u2581\u0120") or spelling

    def words(self) -> dict[int, str]:
        """See TextModel.words."""
        return whole_words(next(iter(self._tokenizers.values())).inv_vocab)

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        """See TextModel.token_embeddings."""
        tables = {name: host.token_embedding(self.clip, name).weight.detach() for name in self._tokenizers}
        return {name: detached_copy(table) if host.quantisation(table) else table for name, table in tables.items()}

    def keep_loaded(self) -> None:
        """Loads the text encoders onto their device, as gradients through them require."""
        host.load(self.clip.patcher)

    def wants_pooled(self) -> bool:
        """Whether prompts are encoded with their pooled embedding: that of SDXL's "g" is read by its UNet."""
        return "g" in self._tokenizers


def _with_vectors(chunk: list[tuple], marker: list[int], vectors: Iterator[torch.Tensor]) -> list[tuple]:
    """Tokens of a chunk with the next vector in place of each occurrence of a marker's tokens."""
    # A vector of an embedding file is no token of the marker.
    ids = [t[0] if isinstance(t[0], int) else NO_START for t in chunk]
    replaced, end = list[tuple](), 0
    for start in find_subsequence(ids, marker):
        replaced += [*chunk[end:start], (next(vectors), *chunk[start][1:])]
        end = start + len(marker)
    return [*replaced, *chunk[end:]]


def wants_gradients(words: Sequence[LearnedEmbedding | None] | None) -> bool:
    """Whether gradients pass through the encoding of prompts with these learned embeddings."""
    return any(v.requires_grad for w in words or () if w for v in w.values()) and torch.is_grad_enabled()


def token_ids(tokens: HostTokens) -> dict[str, list[list[int]]]:
    """Ids of the host's tokens without their weights; vectors of an embedding have negative ids (see vector_id)."""
    return {
        name: [[t[0] if isinstance(t[0], int) else vector_id(t[0]) for t in chunk] for chunk in chunks]
        for name, chunks in tokens.items()
    }


def detached_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Copies a tensor to the CPU in float32, so that autograd accepts it even when it was made in inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32).clone()


def batches_of_equal_length(lengths: list[tuple[int, ...]], size: int) -> list[list[int]]:
    """Numbers of prompts in batches of equal lengths, because an encoder without padding takes no others together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, length in enumerate(lengths):
        groups.setdefault(length, []).append(number)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
