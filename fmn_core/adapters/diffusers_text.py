"""The CLIP text encoders of a diffusers pipeline: prompts to contexts, with vectors in the place of words."""

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
)

_BATCH = 16
_BODY = CHUNK - 2
# What the tokenizer sees of a vector; the token embedding's output is replaced there.
_STAND_IN = 0


@dataclass
class _Encoder:
    tokenizer: Any
    module: Any

    @property
    def table(self) -> Any:
        return self.module.get_input_embeddings()


@dataclass
class _Tokens:
    """One prompt for one encoder: chunks of CHUNK ids, negative ones for vectors, which are in `vectors` by id."""

    chunks: list[list[int]]
    vectors: dict[int, torch.Tensor]


class DiffusersText:
    """One CLIP encoder (SD 1.x "l", SD 2.x "h") or two ("g" and "l", SDXL), as the pipeline itself runs them.

    Prompts of more than 75 tokens become several chunks, which the pipeline itself would cut. Emphasis such as (word:1.2)
    is text like any other. Raises ForgetError when a tokenizer or encoder is missing or is not CLIP's.
    """

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self.joined = getattr(pipeline, "text_encoder_2", None) is not None
        first = self._part("")
        # The order is that of other hosts: what is drawn at random per encoder is then the same.
        self._encoders = {"g": self._part("_2"), "l": first} if self.joined else {_single_name(first): first}
        tokenizer = first.tokenizer
        pads = {name: e.tokenizer.pad_token_id for name, e in self._encoders.items()}
        self.vocabulary = Vocabulary(tokenizer.bos_token_id, tokenizer.eos_token_id, pads)

    def _part(self, suffix: str) -> _Encoder:
        tokenizer = getattr(self.pipeline, f"tokenizer{suffix}", None)
        module = getattr(self.pipeline, f"text_encoder{suffix}", None)
        if tokenizer is None or module is None:
            missing = "tokenizer" if tokenizer is None else "text_encoder"
            raise ForgetError(
                f"Expected a pipeline with {missing}{suffix}, got none. Load it with all its text encoders and tokenizers."
            )
        places = getattr(module.config, "max_position_embeddings", 0)
        if None in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) or places < CHUNK:
            raise ForgetError(
                f"Expected a CLIP text encoder of {CHUNK} tokens, got {type(module).__name__}. "
                "Load a Stable Diffusion 1.x, 2.x or XL pipeline."
            )
        return _Encoder(tokenizer, module)

    def modules(self) -> list[torch.nn.Module]:
        """The text encoders, in the order in which their rows are joined."""
        return [e.module for e in self._encoders.values()]

    def tables(self) -> dict[str, torch.Tensor]:
        """Token embeddings (vocabulary, width) per encoder, see TextModel.token_embeddings."""
        return {name: e.table.weight.detach() for name, e in self._encoders.items()}

    # --- tokens ---

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        """Token ids of a phrase per text encoder, see TextModel.phrase_tokens."""
        tokens = self._tokenize(phrase, None)
        return {name: strip_special(t.chunks, self.vocabulary) for name, t in tokens.items()}

    def _tokenize(self, prompt: str, word: LearnedEmbedding | None) -> dict[str, _Tokens]:
        found = {name: self._body(name, prompt, word) for name in self._encoders}
        # Every encoder gets the same number of chunks, so that their contexts can be joined.
        count = max(1, *(-(-len(body) // _BODY) for body, _ in found.values()))
        return {name: _Tokens(self._chunks(name, body, count), vectors) for name, (body, vectors) in found.items()}

    def _body(self, name: str, prompt: str, word: LearnedEmbedding | None) -> tuple[list[int], dict[int, torch.Tensor]]:
        """Ids without start, end and padding, and the vectors among them."""
        if word is None:
            return self._ids(name, prompt), {}
        vectors = {vector_id(v): v for v in word[name]}
        first, *rest = prompt.split(PLACEHOLDER)
        ids = self._ids(name, first)
        for text in rest:
            ids += [vector_id(v) for v in word[name]] + self._ids(name, text)
        return ids, vectors

    def _ids(self, name: str, text: str) -> list[int]:
        tokenizer = self._encoders[name].tokenizer
        # Textual-inversion tokens of several vectors are spelled out, as the pipeline does.
        text = self.pipeline.maybe_convert_prompt(text, tokenizer)
        return tokenizer(text, truncation=False, add_special_tokens=False, verbose=False).input_ids

    def _chunks(self, name: str, body: list[int], count: int) -> list[list[int]]:
        v = self.vocabulary
        parts = [body[i * _BODY : (i + 1) * _BODY] for i in range(count)]
        return [[v.start, *p, v.end, *[v.pad[name]] * (_BODY - len(p))] for p in parts]

    # --- contexts ---

    def encode(
        self,
        prompts: list[str],
        words: Sequence[LearnedEmbedding | None] | None,
        device: Any,
        padding: int | None = None,
    ) -> list[EncodedPrompt]:
        """See ForgetModel.encode; the pooled embedding comes with it where there are two encoders."""
        words = words or [None] * len(prompts)
        learned = any(v.requires_grad for w in words if w for v in w.values()) and torch.is_grad_enabled()
        encoded = []
        with torch.inference_mode(False), torch.set_grad_enabled(learned):
            for i in range(0, len(prompts), _BATCH):
                part = [self._tokenize(p, w) for p, w in zip(prompts[i : i + _BATCH], words[i : i + _BATCH])]
                for prompt, tokens, (context, pooled) in zip(prompts[i:], part, self._contexts(part, device, padding)):
                    ids = {name: t.chunks for name, t in tokens.items()}
                    own = context if len(context) > CHUNK else context[: self._rows([tokens], padding)]
                    encoded.append(EncodedPrompt(prompt, ids, own, pooled))
        return encoded

    def _contexts(
        self, batch: list[dict[str, _Tokens]], device: Any, padding: int | None
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Context (chunks * 77, dim), or its first rows, and pooled (1, dim) of each prompt; the pooled one is that of its first chunk."""
        sizes = [len(next(iter(t.values())).chunks) for t in batch]
        rows = self._rows(batch, padding) if max(sizes) == 1 else CHUNK
        runs = {name: self._run(name, [t[name] for t in batch], device, rows) for name in self._encoders}
        names = ("l", "g") if self.joined else tuple(runs)
        states = torch.cat([runs[name][0] for name in names], -1).split(sizes)
        pooled = runs["g"][1].split(sizes) if self.joined else [None] * len(batch)
        return [(s.flatten(0, 1), None if p is None else p[:1]) for s, p in zip(states, pooled)]

    def _rows(self, batch: list[dict[str, _Tokens]], padding: int | None) -> int:
        """How many rows hold all of some one-chunk prompts and this much padding."""
        if padding is None:
            return CHUNK
        ends = [first_end(chunk, self.vocabulary) for t in batch for part in t.values() for chunk in part.chunks]
        return min(CHUNK, max(ends) + 1 + padding)

    def _run(self, name: str, batch: list[_Tokens], device: Any, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first hidden states (B, rows, width) and the pooled output of one encoder, float32 on the CPU.

        SD 1.x and 2.x use the last hidden state after the final layer norm (diffusers stores SD 2.x's encoder without its
        unused last layer), SDXL the last but one before it.
        """
        encoder = self._encoders[name]
        ids = torch.tensor([chunk[:rows] for t in batch for chunk in t.chunks])
        vectors = {i: v for t in batch for i, v in t.vectors.items()}
        with _vectors_in_place(encoder.table, ids, vectors):
            out = encoder.module(ids.where(ids >= 0, _STAND_IN).to(device), output_hidden_states=self.joined)
        states = out.hidden_states[-2] if self.joined else out.last_hidden_state
        return states.to("cpu", torch.float32), out[0].to("cpu", torch.float32)


def _single_name(encoder: _Encoder) -> str:
    """SD 2.x's tokenizer differs from SD 1.x's in what it pads with."""
    return "l" if encoder.tokenizer.pad_token_id == encoder.tokenizer.eos_token_id else "h"


@contextlib.contextmanager
def _vectors_in_place(table: Any, ids: torch.Tensor, vectors: dict[int, torch.Tensor]) -> Iterator[None]:
    """Puts vectors into the token embedding's output (B, 77, width) wherever `ids` has their negative id."""
    places = (ids < 0).nonzero(as_tuple=True)
    if not len(places[0]):
        yield
        return
    rows = torch.stack([vectors[i] for i in ids[places].tolist()])

    def replace(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        where = tuple(p.to(output.device) for p in places)
        return output.index_put(where, rows.to(output.device, output.dtype))

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
