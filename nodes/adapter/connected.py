"""What was connected to a node when it last ran: the page asks about it, and only the server has seen it."""

from __future__ import annotations

import weakref
from typing import Any

from .. import host

_KEPT = 256
_tokenizers: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_bases: dict[str, dict[str, Any]] = {}


def remember_tokenizer(tokenizer: Any) -> None:
    """Of the CLIP of the node that is executing; forgotten when the host frees the CLIP."""
    node = host.running_node()
    if node:
        _tokenizers[node] = tokenizer


def tokenizer(node: str) -> Any:
    """The tokenizer that a node was last given, or None."""
    return _tokenizers.get(node)


def remember_base(fingerprint: dict[str, Any]) -> None:
    """Of the MODEL of the node that is executing."""
    node = host.running_node()
    if node:
        _bases.pop(node, None)
        _bases[node] = fingerprint
        while len(_bases) > _KEPT:
            _bases.pop(next(iter(_bases)))


def base(node: str) -> dict[str, Any]:
    """The fingerprint of the MODEL that a node was last given; empty before its first run."""
    return _bases.get(node, {})
