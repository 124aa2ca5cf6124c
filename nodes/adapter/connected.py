"""Remembers, for the page, the tokenizer and the base model that each node of a workflow received at its last run."""

from __future__ import annotations

import weakref
from typing import Any

from .. import host

_MOST_BASES = 256
# By workflow and node: numbers of nodes begin at 1 in every workflow.
_tokenizers: weakref.WeakValueDictionary[tuple[str, str], Any] = weakref.WeakValueDictionary()
_bases: dict[tuple[str, str], dict[str, Any]] = {}


def remember_tokenizer(tokenizer: Any) -> None:
    """Remembers the tokenizer of the executing node's CLIP until the host frees the CLIP."""
    node = host.running_node()
    if node:
        _tokenizers[host.running_workflow(), node] = tokenizer


def tokenizer(workflow: str, node: str) -> Any:
    """The tokenizer of the CLIP that a node of a workflow last received, or None."""
    return _tokenizers.get((workflow, node))


def remember_base(fingerprint: dict[str, Any]) -> None:
    """Remembers the fingerprint of the executing node's MODEL."""
    node = host.running_node()
    if node:
        key = host.running_workflow(), node
        _bases.pop(key, None)
        _bases[key] = fingerprint
        while len(_bases) > _MOST_BASES:
            _bases.pop(next(iter(_bases)))


def base(workflow: str, node: str) -> dict[str, Any]:
    """The fingerprint of the MODEL that a node of a workflow last received; empty before the node's first run."""
    return _bases.get((workflow, node), {})
