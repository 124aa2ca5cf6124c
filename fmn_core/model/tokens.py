"""Encoded prompts, their tokens, and the concept columns of a phrase among them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from ..errors import ForgetError

CHUNK = 77
SHORTEST_WORD = 3
# No token and no vector has this id.
NO_START = -(1 << 40)
# Which columns count besides the phrase's own tokens: none, the first end token, or all end and padding tokens.
END_TOKEN_CHOICES = ("none", "first", "all")
# Marks, in a prompt's text, the place of a learned embedding.
PLACEHOLDER = "<concept>"
# What the rows of a phrase become where it is left out.
Nothing = Literal["last row", "previous row", "mean row", "zero row"]
LAST_ROW: Nothing = "last row"
PREVIOUS_ROW: Nothing = "previous row"
MEAN_ROW: Nothing = "mean row"
ZERO_ROW: Nothing = "zero row"
# Vectors learned by textual inversion: (m, width) per text encoder, with the same m for all encoders.
LearnedEmbedding = dict[str, torch.Tensor]


@dataclass
class EncodedPrompt:
    """A prompt with its token ids and its text conditioning.

    Attributes
    ----------
    tokens
        Token ids per text encoder whose rows the context has, and chunk of 77; T5 has one chunk. Vectors of a learned embedding have
        negative ids, see vector_id.
    context
        Text conditioning (chunks * 77, d), or its first rows. SDXL joins its encoders' rows along d.
    pooled
        Pooled embedding (1, width), where the model uses one.
    causal
        Whether a row depends on earlier tokens alone, as CLIP's do; T5's depend on the whole prompt.
    nothing
        What the rows of a phrase become where it is left out: the last row of the prompt without it, which is padding if there is any; the
        row before it; or the mean of all rows.
    further
        Rows that follow in the context and are of further text encoders, as prompts of their own. `context` has none of them.
    """

    text: str
    tokens: dict[str, list[list[int]]]
    context: torch.Tensor
    pooled: torch.Tensor | None = None
    causal: bool = True
    nothing: Nothing = LAST_ROW
    further: tuple[EncodedPrompt, ...] = ()

    @property
    def blocks(self) -> tuple[EncodedPrompt, ...]:
        """The prompt as each of its text encoders gives it."""
        return self, *self.further

    @property
    def whole_context(self) -> torch.Tensor:
        """The rows of all its text encoders, as the model gets them."""
        return torch.cat([block.context for block in self.blocks]) if self.further else self.context

    def to(self, device: torch.device | str) -> EncodedPrompt:
        """Copies the prompt, with its context and pooled embedding on a device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        further = tuple(block.to(device) for block in self.further)
        return replace(self, context=self.context.to(device), pooled=pooled, further=further)


def vector_id(vector: torch.Tensor) -> int:
    """Negative token id of a vector that stands in place of a token; equal vectors have equal ids."""
    return -1 - zlib.crc32(vector.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())


@dataclass
class Vocabulary:
    """Special token ids of a model's tokenizers.

    Attributes
    ----------
    start, end
        Ids of the start and end token; the defaults are CLIP's. NO_START where prompts have no start token, as T5's.
    pad
        Id of the padding token of each text encoder.
    """

    start: int = 49406
    end: int = 49407
    pad: dict[str, int] = field(default_factory=dict)


def whole_words(spellings: Mapping[int, str]) -> dict[int, str]:
    """The tokens that are whole words of at least three letters, in lower case, by token id.

    Parameters
    ----------
    spellings
        Spelling of every token. A whole word ends with "</w>" in CLIP's tokenizers and begins with "\u2581" in SentencePiece's and "\u0120"
        in Qwen's.
    """
    words = {}
    for token, spelling in spellings.items():
        word = spelling.removesuffix("</w>").removeprefix("\u2581").removeprefix("\u0120")
        if word != spelling and len(word) >= SHORTEST_WORD and word.isalpha() and word.islower():
            words[token] = word
    return dict(sorted(words.items()))


def strip_special(chunks: list[list[int]], vocabulary: Vocabulary) -> list[int]:
    """Token ids of a prompt without start tokens, and without everything from each chunk's first end token on."""
    ids: list[int] = []
    for chunk in chunks:
        body = chunk[1:] if chunk and chunk[0] == vocabulary.start else chunk
        ids += body[: body.index(vocabulary.end)] if vocabulary.end in body else body
    return ids


def end_columns(chunk: list[int], vocabulary: Vocabulary, choice: str) -> list[int]:
    """Columns of a chunk's end tokens.

    Parameters
    ----------
    choice
        One of END_TOKEN_CHOICES: `first` is the first end token alone, `all` is that and everything after it.
    """
    if choice == "none" or vocabulary.end not in chunk:
        return []
    first = chunk.index(vocabulary.end)
    return [first] if choice == "first" else list(range(first, len(chunk)))


def find_subsequence(haystack: list[int], needle: list[int]) -> list[int]:
    """Start positions of all occurrences that do not overlap an earlier one."""
    starts, i = [], 0
    while needle and i + len(needle) <= len(haystack):
        if haystack[i : i + len(needle)] == needle:
            starts.append(i)
            i += len(needle)
        else:
            i += 1
    return starts


def first_end(chunk: list[int], vocabulary: Vocabulary) -> int:
    """Position of the first end token in a chunk, or the chunk's length where it has none."""
    return chunk.index(vocabulary.end) if vocabulary.end in chunk else len(chunk)


def row_weights(prompt: EncodedPrompt, vocabulary: Vocabulary) -> torch.Tensor:
    """Weight of each encoded row (l,). The padding rows of a truncated context stand for all the padding it had."""
    chunks = next(iter(prompt.tokens.values()))
    rows, all_rows = len(prompt.context), sum(len(chunk) for chunk in chunks)
    weight = torch.ones(rows)
    if rows < all_rows:
        padding_start = max(first_end(chunks[0], vocabulary) for chunks in prompt.tokens.values()) + 1
        weight[padding_start:] = (all_rows - padding_start) / (rows - padding_start)
    return weight


def concept_columns(
    tokens: dict[str, list[list[int]]],
    phrases: dict[str, list[list[int]]],
    vocabulary: Vocabulary,
    end_token: str = "first",
) -> list[int]:
    """Finds the columns I of a concept in a prompt's cross-attention.

    Parameters
    ----------
    tokens
        Token ids of the prompt per text encoder and chunk. Each encoder has its own tokenizer.
    phrases
        Token ids of each phrase per text encoder, without special tokens. Every occurrence counts.
    end_token
        One of END_TOKEN_CHOICES. End tokens are added only in chunks with a phrase.

    Returns
    -------
    Sorted indices into the chunks * 77 rows of the context; empty when no phrase occurs.

    Raises
    ------
    ForgetError
        On an unknown end-token choice.

    Notes
    -----
    Forget-Me-Not, section 3.2. The paper takes the first end token, its released code all of them.
    """
    if end_token not in END_TOKEN_CHOICES:
        raise ForgetError(f"Expected an end-token choice of {', '.join(END_TOKEN_CHOICES)}, got {end_token!r}.")
    columns: set[int] = set()
    for encoder, chunks in tokens.items():
        for number, chunk in enumerate(chunks):
            offset = number * len(chunk)
            starts = [(s, len(p)) for p in phrases.get(encoder, []) for s in find_subsequence(chunk, p)]
            columns.update(offset + s + i for s, length in starts for i in range(length))
            if starts:
                columns.update(offset + c for c in end_columns(chunk, vocabulary, end_token))
    return sorted(columns)
