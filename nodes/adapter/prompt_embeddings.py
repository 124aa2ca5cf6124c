"""Checks the embeddings that a prompt names, because the host skips unusable ones, which moves every later token."""

from __future__ import annotations

import re
from typing import Any

import torch

from ...fmn_core.errors import ForgetError
from .. import host

# The host's own rule: at the start, after a blank or a line break, or where a bracket begins or ends a weighted part.
_NAMED_EMBEDDING = re.compile(r"(?:^|[ \n()])embedding:([^\s()]*)")
_WEIGHT = re.compile(r":[\d.]*$")


def check_embeddings(clip: Any, text: str) -> None:
    """Raises ForgetError when a prompt names an embedding that is missing, unreadable or of another width than the CLIP's."""
    for weighted_name in _NAMED_EMBEDDING.findall(text):
        name = _WEIGHT.sub("", weighted_name).strip(",")
        if not name:
            raise ForgetError(f"Expected a name after 'embedding:', got none in {text[:60]!r}. Type the file's name.")
        for encoder, vectors in _vectors(clip, name).items():
            width = host.token_embedding(clip, encoder).weight.shape[-1]
            wrong = {v.shape[-1] for v in vectors} - {width}
            if wrong:
                raise ForgetError(
                    f"Expected vectors of width {width} for text encoder {encoder}, got {min(wrong)} in embedding:{name}. "
                    "Choose an embedding made for this family of models."
                )


def _vectors(clip: Any, name: str) -> dict[str, list[torch.Tensor]]:
    """Loads the vectors of an embedding, by text encoder, through the host's tokenizer."""
    try:
        tokens = clip.tokenize(f"embedding:{name}")
    except (RuntimeError, LookupError, StopIteration, AttributeError, TypeError, ValueError) as error:
        raise ForgetError(
            f"Expected a textual-inversion embedding, but embedding:{name} cannot be read. Choose another file."
        ) from error
    vectors = {k: [t[0] for c in chunks for t in c if not isinstance(t[0], int)] for k, chunks in tokens.items()}
    if not all(vectors.values()):
        raise ForgetError(
            f"Expected an embedding file in models/embeddings, found none for embedding:{name}. Check the name, or save the file there."
        )
    return vectors
