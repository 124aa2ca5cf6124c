"""Concept columns: where a phrase stands among the tokens of a prompt."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

import torch

from ..errors import ForgetError

CHUNK = 77
# none: the phrase's own tokens; first: and the first end token after the prompt; all: and every end and padding token
END_TOKEN_CHOICES = ("none", "first", "all")
# Stands in a prompt's text where vectors stand among its tokens.
PLACEHOLDER = "<concept>"
# Vectors that stand for a concept, as textual inversion learns them: (m, width) per text encoder, one m for all.
LearnedEmbedding = dict[str, torch.Tensor]


@dataclass
class EncodedPrompt:
    """A prompt as the model sees it.

    `tokens`: per text encoder, per chunk of 77, the token ids. Textual-inversion vectors have negative ids, see vector_id.
    `context`: (chunks * 77, dim) text conditioning, or its first rows; encoders joined on channels, as SDXL does.
    `pooled`: the pooled embedding of the encoder, where the model wants one.
    """

    text: str
    tokens: dict[str, list[list[int]]]
    context: torch.Tensor
    pooled: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> EncodedPrompt:
        """The same prompt with its embeddings on a device, for work that meets it again and again."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return replace(self, context=self.context.to(device), pooled=pooled)


def vector_id(vector: torch.Tensor) -> int:
    """A negative token id for a vector that stands in place of a token: equal vectors have equal ids."""
    return -1 - zlib.crc32(vector.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())


@dataclass
class Vocabulary:
    """What is special about a tokenizer: start, end and padding ids, and the ids of a phrase."""

    start: int = 49406
    end: int = 49407
    pad: dict[str, int] = field(default_factory=dict)


def strip_special(chunks: list[list[int]], vocabulary: Vocabulary) -> list[int]:
    """The ids of a tokenised phrase without start, end and padding.

    A phrase is tokenised as a prompt of its own; everything from the first end token on is padding.
    """
    ids: list[int] = []
    for chunk in chunks:
        body = chunk[1:] if chunk and chunk[0] == vocabulary.start else chunk
        ids += body[: body.index(vocabulary.end)] if vocabulary.end in body else body
    return ids


def end_columns(chunk: list[int], vocabulary: Vocabulary, choice: str) -> list[int]:
    """Columns of the end token (`first`), or of it and all padding after it (`all`), in one chunk."""
    if choice == "none" or vocabulary.end not in chunk:
        return []
    first = chunk.index(vocabulary.end)
    return [first] if choice == "first" else list(range(first, len(chunk)))


def find_subsequence(haystack: list[int], needle: list[int]) -> list[int]:
    """Start positions of every occurrence that does not overlap an earlier one."""
    found, i = [], 0
    while needle and i + len(needle) <= len(haystack):
        if haystack[i : i + len(needle)] == needle:
            found.append(i)
            i += len(needle)
        else:
            i += 1
    return found


def first_end(chunk: list[int], vocabulary: Vocabulary) -> int:
    """The place of the end token in a chunk; its length where there is none."""
    return chunk.index(vocabulary.end) if vocabulary.end in chunk else len(chunk)


def row_weights(prompt: EncodedPrompt, vocabulary: Vocabulary) -> torch.Tensor:
    """For how many rows of the whole context each row of one that may end early stands (l,): 1, and for padding its share of all padding."""
    chunks = next(iter(prompt.tokens.values()))
    rows, whole = len(prompt.context), sum(len(chunk) for chunk in chunks)
    weight = torch.ones(rows)
    if rows < whole:
        padding = max(first_end(chunks[0], vocabulary) for chunks in prompt.tokens.values()) + 1
        weight[padding:] = (whole - padding) / (rows - padding)
    return weight


def concept_columns(
    tokens: dict[str, list[list[int]]],
    phrases: dict[str, list[list[int]]],
    vocabulary: Vocabulary,
    end_token: str = "first",
) -> list[int]:
    """The columns I of a concept in a prompt's cross-attention.

    `tokens` and `phrases` are keyed by text encoder, because each has its own tokenizer; the phrase is searched in
    every chunk, all occurrences, by token ids. End tokens are added only in chunks that hold the phrase. Returns
    sorted column indices into the (chunks * 77) context; empty when the phrase does not occur. Raises ForgetError
    on an unknown end-token choice. Source: FMN, section 3.2; "first" is the paper's choice, "all" the released code's.
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
