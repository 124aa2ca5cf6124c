"""The CLIP text encoders of a diffusers pipeline, which encode prompts with learned embeddings among their tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ForgetError
from ..model.tokens import (
    CHUNK,
    PLACEHOLDER,
    EncodedPrompt,
    LearnedEmbedding,
    Vocabulary,
    first_end,
    strip_special,
    vector_id,
    whole_words,
)

_BATCH = 16
_BODY = CHUNK - 2
# Token id in place of a vector; a hook replaces its embedding.
_STAND_IN = 0


@dataclass
class _Encoder:
    """A text encoder with its tokenizer."""

    tokenizer: Any
    module: Any

    @property
    def table(self) -> Any:
        return self.module.get_input_embeddings()


@dataclass
class _Tokens:
    """One prompt for one encoder: chunks of CHUNK ids, and the learned vectors by their negative id."""

    chunks: list[list[int]]
    vectors: dict[int, torch.Tensor]


class DiffusersText:
    """The pipeline's CLIP text encoders: "l" for SD 1.x, "h" for SD 2.x, "g" and "l" for SDXL.

    Raises
    ------
    ForgetError
        By the constructor, when a tokenizer or encoder is missing or is not CLIP's.

    Notes
    -----
    Prompts of more than 75 tokens become several chunks, where the pipeline itself would cut them. Emphasis such as (word:1.2)
    is ordinary text.
    """

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self._is_sdxl = getattr(pipeline, "text_encoder_2", None) is not None
        first = self._load_encoder("")
        # ComfyUI's order, so that random draws for each encoder are the same in both.
        self._encoders = {"g": self._load_encoder("_2"), "l": first} if self._is_sdxl else {_single_name(first): first}
        tokenizer = first.tokenizer
        pads = {name: e.tokenizer.pad_token_id for name, e in self._encoders.items()}
        self.vocabulary = Vocabulary(tokenizer.bos_token_id, tokenizer.eos_token_id, pads)

    def _load_encoder(self, suffix: str) -> _Encoder:
        """The pipeline's text encoder and tokenizer with this suffix of their names."""
        tokenizer = getattr(self.pipeline, f"tokenizer{suffix}", None)
        module = getattr(self.pipeline, f"text_encoder{suffix}", None)
        if tokenizer is None or module is None:
            missing = "tokenizer" if tokenizer is None else "text_encoder"
            raise ForgetError(
                f"Expected a pipeline with {missing}{suffix}, got none. Load it with all its text encoders and tokenizers."
            )
        positions = getattr(module.config, "max_position_embeddings", 0)
        if None in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) or positions < CHUNK:
            raise ForgetError(
                f"Expected a CLIP text encoder of {CHUNK} tokens, got {type(module).__name__}. "
                "Load a Stable Diffusion 1.x, 2.x or XL pipeline."
            )
        return _Encoder(tokenizer, module)

    def modules(self) -> list[torch.nn.Module]:
        """The text encoders' modules."""
        return [e.module for e in self._encoders.values()]

    def tables(self) -> dict[str, torch.Tensor]:
        """Token embeddings (vocabulary, width) per encoder, see TextModel.token_embeddings."""
        return {name: e.table.weight.detach() for name, e in self._encoders.items()}

    # --- tokens ---

    def words(self) -> dict[int, str]:
        """See TextModel.words."""
        vocabulary = next(iter(self._encoders.values())).tokenizer.get_vocab()
        return whole_words({token: spelling for spelling, token in vocabulary.items()})

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        """Token ids of a phrase per text encoder, see TextModel.phrase_tokens."""
        tokens = self._tokenize(phrase, None)
        return {name: strip_special(t.chunks, self.vocabulary) for name, t in tokens.items()}

    def phrase_spellings(self, phrase: str) -> dict[str, list[list[int]]]:
        """See TextModel.phrase_spellings; CLIP has one spelling."""
        return {name: [ids] for name, ids in self.phrase_tokens(phrase).items()}

    def _tokenize(self, prompt: str, word: LearnedEmbedding | None) -> dict[str, _Tokens]:
        bodies = {name: self._body(name, prompt, word) for name in self._encoders}
        # Every encoder gets the same number of chunks, so that their contexts can be joined.
        count = max(1, *(-(-len(ids) // _BODY) for ids, _ in bodies.values()))
        return {name: _Tokens(self._chunks(name, ids, count), vectors) for name, (ids, vectors) in bodies.items()}

    def _body(self, name: str, prompt: str, word: LearnedEmbedding | None) -> tuple[list[int], dict[int, torch.Tensor]]:
        """Token ids of a prompt without special tokens, and the learned vectors by their negative id."""
        if word is None:
            return self._ids(name, prompt), {}
        vectors = {vector_id(v): v for v in word[name]}
        first, *following = prompt.split(PLACEHOLDER)
        ids = self._ids(name, first)
        for text in following:
            ids += [vector_id(v) for v in word[name]] + self._ids(name, text)
        return ids, vectors

    def _ids(self, name: str, text: str) -> list[int]:
        tokenizer = self._encoders[name].tokenizer
        # The pipeline replaces the name of a textual inversion of several vectors by one token for each vector.
        text = self.pipeline.maybe_convert_prompt(text, tokenizer)
        return tokenizer(text, truncation=False, add_special_tokens=False, verbose=False).input_ids

    def _chunks(self, name: str, ids: list[int], count: int) -> list[list[int]]:
        """Splits token ids into chunks with start, end and padding tokens."""
        special = self.vocabulary
        bodies = [ids[i * _BODY : (i + 1) * _BODY] for i in range(count)]
        return [[special.start, *b, special.end, *[special.pad[name]] * (_BODY - len(b))] for b in bodies]

    # --- contexts ---

    def encode(
        self,
        prompts: list[str],
        words: Sequence[LearnedEmbedding | None] | None,
        device: Any,
        padding: int | None = None,
    ) -> list[EncodedPrompt]:
        """Encodes prompts, see TextModel.encode. Only SDXL's prompts have a pooled embedding."""
        words = words or [None] * len(prompts)
        require_gradients = any(v.requires_grad for w in words if w for v in w.values()) and torch.is_grad_enabled()
        encoded = []
        with torch.inference_mode(False), torch.set_grad_enabled(require_gradients):
            for i in range(0, len(prompts), _BATCH):
                batch = [self._tokenize(p, w) for p, w in zip(prompts[i : i + _BATCH], words[i : i + _BATCH])]
                for prompt, tokens, (context, pooled) in zip(
                    prompts[i:], batch, self._contexts(batch, device, padding)
                ):
                    ids = {name: t.chunks for name, t in tokens.items()}
                    rows = len(context) if len(context) > CHUNK else self._row_count([tokens], padding)
                    encoded.append(EncodedPrompt(prompt, ids, context[:rows], pooled))
        return encoded

    def _contexts(
        self, batch: list[dict[str, _Tokens]], device: Any, padding: int | None
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Context (chunks * 77, d), or its first rows, and first chunk's pooled embedding (1, width), of each prompt."""
        sizes = [len(next(iter(t.values())).chunks) for t in batch]
        rows = self._row_count(batch, padding) if max(sizes) == 1 else CHUNK
        outputs = {name: self._run(name, [t[name] for t in batch], device, rows) for name in self._encoders}
        names = ("l", "g") if self._is_sdxl else tuple(outputs)
        states = torch.cat([outputs[name][0] for name in names], -1).split(sizes)
        pooled = outputs["g"][1].split(sizes) if self._is_sdxl else [None] * len(batch)
        return [(s.flatten(0, 1), None if p is None else p[:1]) for s, p in zip(states, pooled)]

    def _row_count(self, batch: list[dict[str, _Tokens]], padding: int | None) -> int:
        """Number of rows that hold the tokens of all prompts of a batch, each of one chunk, and this many padding rows."""
        if padding is None:
            return CHUNK
        ends = [first_end(chunk, self.vocabulary) for tokens in batch for t in tokens.values() for chunk in t.chunks]
        return min(CHUNK, max(ends) + 1 + padding)

    def _run(self, name: str, batch: list[_Tokens], device: Any, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (B, rows, width) and first output of one encoder, float32 on the CPU.

        SD 1.x and 2.x use the last hidden state after the final layer norm (diffusers stores SD 2.x's encoder without its
        unused last layer), SDXL the last but one without that norm. The first output of SDXL's "g" is the pooled embedding.
        """
        encoder = self._encoders[name]
        ids = torch.tensor([chunk[:rows] for t in batch for chunk in t.chunks])
        vectors = {i: v for t in batch for i, v in t.vectors.items()}
        with _insert_vectors(encoder.table, ids, vectors):
            out = encoder.module(ids.where(ids >= 0, _STAND_IN).to(device), output_hidden_states=self._is_sdxl)
        states = out.hidden_states[-2] if self._is_sdxl else out.last_hidden_state
        return states.to("cpu", torch.float32), out[0].to("cpu", torch.float32)


def _single_name(encoder: _Encoder) -> str:
    """Name of a single encoder. SD 1.x's tokenizer pads with the end token, SD 2.x's does not."""
    return "l" if encoder.tokenizer.pad_token_id == encoder.tokenizer.eos_token_id else "h"


@contextlib.contextmanager
def _insert_vectors(table: Any, ids: torch.Tensor, vectors: dict[int, torch.Tensor]) -> Iterator[None]:
    """Context in which the token embedding (B, rows, width) has the vectors wherever `ids` has their negative id."""
    positions = (ids < 0).nonzero(as_tuple=True)
    if not len(positions[0]):
        yield
        return
    rows = torch.stack([vectors[i] for i in ids[positions].tolist()])

    def replace(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        indices = tuple(p.to(output.device) for p in positions)
        return output.index_put(indices, rows.to(output.device, output.dtype))

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
