"""Captions as rows of small vocabularies: of T5's 32,128 tokens and CLIP's 49,408, only those that occur in the world are trained and shipped."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from mini_flux.captions import LONG, ON_GROUNDS, PAIRS
from mini_flux.config import CONFIG
from mini_flux.scenes import SIZES
from mini_flux.things import GROUNDS, STYLE_NAMES, THINGS
from mini_sd.concepts import OBJECTLESS_TEMPLATES, PLAIN_TEMPLATES, STYLED_TEMPLATES
from tools import comfy_host

# Tokens of a prompt of CLIP, padding included; that of T5 is in config.json, and the loader tells the host's tokenizer.
CLIP_LENGTH = 77
# Row 0 of either table is zero, and stands for every token that is not in the world.
UNKNOWN = 0


@dataclass(frozen=True)
class Tokenizer:
    """One of the host's tokenizers, and the rows of its tokens in a small table.

    Attributes
    ----------
    tokenize
        Token ids of a text, special tokens included.
    pad
        Token id of padding.
    length
        Number of rows of a prompt.
    tokens
        Token ids by row, from row 1 on.
    """

    tokenize: Any
    pad: int
    length: int
    tokens: tuple[int, ...]

    @functools.cached_property
    def row_of(self) -> dict[int, int]:
        """Row by token id."""
        return {token: row for row, token in enumerate(self.tokens, 1)}

    def rows(self, text: str) -> torch.Tensor:
        """Rows (length,) of a text with its padding; what is too long is cut off before the end token."""
        *ids, end = self.tokenize(text)
        ids = [*ids[: self.length - 1], end]
        ids += [self.pad] * (self.length - len(ids))
        return torch.tensor([self.row_of.get(i, UNKNOWN) for i in ids])


def texts() -> list[str]:
    """Texts that hold every word of the world."""
    names = [word for t in THINGS for word in (t.name, *t.synonyms, *([t.shared_word] if t.shared_word else []))]
    forms = [*STYLED_TEMPLATES, *PLAIN_TEMPLATES, *OBJECTLESS_TEMPLATES, *ON_GROUNDS, LONG, *sum(PAIRS.values(), ())]
    bare = [form.translate(str.maketrans("{}", "  ")) for form in forms]
    words = [*names, *GROUNDS, *SIZES, *STYLE_NAMES, "a an and the", *bare]
    # After a word and at the beginning, and before a comma and a full stop.
    return [text for word in words for text in (word, f"a {word}, {word}.")]


def _tokenizer(tokenize: Any, pad: int, length: int) -> Tokenizer:
    tokens = {i for text in ["", *texts()] for i in tokenize(text)}
    return Tokenizer(tokenize, pad, length, tuple(sorted(tokens | {pad})))


@functools.cache
def t5() -> Tokenizer:
    """The tokens of T5."""
    from transformers import T5TokenizerFast

    whole = T5TokenizerFast.from_pretrained(str(comfy_host.root() / "comfy" / "text_encoders" / "t5_tokenizer"))
    return _tokenizer(lambda text: whole(text)["input_ids"], 0, CONFIG["t5_length"])


@functools.cache
def clip() -> Tokenizer:
    """The tokens of CLIP-L."""
    from mini_sd.captions import END, tokenizer

    whole = tokenizer()
    return _tokenizer(lambda text: whole(text)["input_ids"], END, CLIP_LENGTH)
