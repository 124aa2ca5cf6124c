"""Previews the tokens of the texts in a node's inputs before the node runs."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

from ...fmn_core.concepts.concept import concept_from_text
from ...fmn_core.concepts.templates import fill_template, split_lines
from ...fmn_core.concepts.token_view import token_view
from ...fmn_core.errors import ForgetError
from .. import host
from ..adapter import connected
from ..adapter.text import ComfyText
from ..adapter.transformer import TransformerText

LONGEST_TEXT = 20_000
MOST_ROWS = 8
# The whole prompt is searched for every phrase, and an embedding is read each time that a text names it.
MOST_PHRASES = MOST_EMBEDDINGS = 64


class _TokensOnly(ComfyText):
    """A tokenizer without text encoder, and without the check of embeddings.

    The node itself refuses an embedding that is missing or of another width when it runs.
    """

    def __init__(self, tokenizer: Any):
        super().__init__(SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights))

    def _host_tokens(self, text: str) -> dict[str, list[list[tuple]]]:
        return self.clip.tokenize(text)


class _TransformerTokensOnly(_TokensOnly, TransformerText):
    """The same for transformers."""


def _preview_text(tokenizer: Any) -> _TokensOnly:
    encoders = set(tokenizer.tokenize_with_weights(""))
    of_transformer = any(encoders == set(family.encoders) for family in host.FAMILIES)
    return (_TransformerTokensOnly if of_transformer else _TokensOnly)(tokenizer)


@functools.cache
def _standard_tokenizer() -> Any:
    return host.standard_tokenizer()


def _check_size(texts: tuple[str, ...], phrases: list[str]) -> None:
    if max(map(len, texts)) > LONGEST_TEXT:
        raise ForgetError(f"Expected at most {LONGEST_TEXT} characters, got more. Shorten the text.")
    if len(phrases) > MOST_PHRASES:
        raise ForgetError(
            f"Expected at most {MOST_PHRASES} phrases to show the tokens of, got {len(phrases)}. A training takes them all."
        )
    if sum(text.count("embedding:") for text in texts) > MOST_EMBEDDINGS:
        raise ForgetError(
            f"Expected embeddings to be named at most {MOST_EMBEDDINGS} times, got more. Shorten the text."
        )


def preview_tokens(
    workflow: str, node: str, prompt: str, phrase: str, kind: str, templates: str, end_token: str
) -> dict[str, Any]:
    """Splits the texts of a node into tokens.

    Parameters
    ----------
    workflow, node
        Ids of the workflow and of the node. The tokenizer is that of the CLIP of its last run, or the standard one of SD 1.x.
    prompt
        The text to split. Where it is empty, each line of `phrase` is shown in its first template.
    phrase, kind, templates, end_token
        The node's inputs of these names.

    Returns
    -------
    `rows` of token_view, and as `tokenizer` which one split the text: "connected" or "standard".

    Raises
    ------
    ForgetError
        A text is too long, or there are too many phrases or embeddings.
    """
    lines = split_lines(phrase)
    _check_size((prompt, phrase, templates), lines)
    tokenizer = connected.tokenizer(workflow, node)
    text = _preview_text(tokenizer or _standard_tokenizer())
    ids = {line: text.phrase_tokens(line) for line in lines}
    if prompt.strip() or not lines:
        prompts = [(prompt, ids)]
    else:
        template = concept_from_text(lines[0], kind, templates).templates[0]
        prompts = [(fill_template(template, line), {line: ids[line]}) for line in lines[:MOST_ROWS]]
    rows = [token_view(text.tokenize(p), i, text.vocabulary, end_token, text.token_text) for p, i in prompts]
    return {"rows": rows, "tokenizer": "standard" if tokenizer is None else "connected"}
