"""Remembers, for the page, the tokenizer and the base model that each node received at its last run."""

from __future__ import annotations

import weakref
from typing import Any

from .. import host

_MOST_BASES = 256
_tokenizers: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_bases: dict[str, dict[str, Any]] = {}


def remember_tokenizer(tokenizer: Any) -> None:
    """Remembers the tokenizer of the executing node's CLIP until the host frees the CLIP."""
    node = host.running_node()
    if node:
        _tokenizers[node] = tokenizer


def tokenizer(node: str) -> Any:
    """The tokenizer of the CLIP that a node last received, or None."""
    return _tokenizers.get(node)


def remember_base(fingerprint: dict[str, Any]) -> None:
    """Remembers the fingerprint of the executing node's MODEL."""
    node = host.running_node()
    if node:
        _bases.pop(node, None)
        _bases[node] = fingerprint
        while len(_bases) > _MOST_BASES:
            _bases.pop(next(iter(_bases)))


def base(node: str) -> dict[str, Any]:
    """The fingerprint of the MODEL that a node last received; empty before the node's first run."""
    return _bases.get(node, {})
