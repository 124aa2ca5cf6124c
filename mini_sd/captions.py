"""Caption -> token ids over the miniature's compact vocabulary.

The host's CLIP tokenizer is used as it is; only rows of tokens that occur in training are trained and shipped.
"""

from __future__ import annotations

import functools

import torch

from mini_sd.concepts import vocabulary_texts
from tools import comfy_host

LENGTH, START, END = 77, 49406, 49407
UNKNOWN = 0  # row 0 of the compact vocabulary: an all-zero embedding, shared by every token not in it


@functools.cache
def tokenizer():
    """The standard CLIP tokenizer, from the host's own files."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(comfy_host.root() / "comfy" / "sd1_tokenizer"))


def word_ids(text: str) -> list[int]:
    """CLIP token ids of a text, without start, end and padding."""
    return tokenizer()(text)["input_ids"][1:-1]


@functools.cache
def vocabulary() -> tuple[int, ...]:
    """CLIP ids of the trained rows; row k of the compact table belongs to vocabulary()[k - 1]."""
    texts = [t.replace("{x}", "").replace("{s}", "") for t in vocabulary_texts()] + ["a an the"]
    return tuple(sorted({i for t in texts for i in word_ids(t)} | {START, END}))


@functools.cache
def _rows() -> dict[int, int]:
    return {token: k + 1 for k, token in enumerate(vocabulary())}


@functools.cache
def encode(text: str) -> torch.Tensor:
    """Compact token rows of one caption: (77,) long, padded with the end token as CLIP-L is."""
    ids = [START, *word_ids(text)[: LENGTH - 2], END]
    ids += [END] * (LENGTH - len(ids))
    return torch.tensor([_rows().get(i, UNKNOWN) for i in ids])


def with_unknown_words(rows: torch.Tensor, rng) -> torch.Tensor:
    """Inserts one to three unknown words at random places, so that words outside the vocabulary do no harm."""
    out = rows.tolist()
    end = out.index(_rows()[END])
    for _ in range(int(rng.integers(1, 4))):
        out.insert(int(rng.integers(1, end + 1)), UNKNOWN)
        end += 1
    return torch.tensor(out[:LENGTH])
