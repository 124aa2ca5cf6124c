"""The tokens of what is typed into a node, before it runs."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

from ...fmn_core.concepts.concept import concept_from_text
from ...fmn_core.concepts.templates import fill_template
from ...fmn_core.concepts.token_view import token_view
from ...fmn_core.errors import ForgetError
from .. import host
from ..adapter import connected
from ..adapter.text import ComfyText

LONGEST_TEXT = 20_000
MOST_ROWS = 8
# Every phrase is searched for in the whole prompt, and an embedding is read for every time that it is named.
MOST_PHRASES = MOST_EMBEDDINGS = 64


class _PreviewText(ComfyText):
    """Text without its encoder: an embedding that is missing or of another width is the node's to refuse, when it runs."""

    def __init__(self, tokenizer: Any):
        super().__init__(SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights))

    def _host_tokens(self, text: str) -> dict[str, list[list[tuple]]]:
        return self.clip.tokenize(text)


@functools.cache
def _standard() -> Any:
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


def preview(node: str, prompt: str, phrase: str, kind: str, templates: str, end_token: str) -> dict[str, Any]:
    """Rows of chips (see token_view) and which tokenizer made them, "connected" or "standard".

    One row for `prompt`, or, where a node has none, one for each of the phrase's lines in its first template. Raises
    ForgetError on texts that are too long.
    """
    lines = [line.strip() for line in phrase.splitlines() if line.strip()]
    _check_size((prompt, phrase, templates), lines)
    found = connected.tokenizer(node)
    text = _PreviewText(found or _standard())
    ids = {line: text.phrase_tokens(line) for line in lines}
    if prompt.strip() or not lines:
        prompts = [(prompt, ids)]
    else:
        template = concept_from_text(lines[0], kind, templates).templates[0]
        prompts = [(fill_template(template, line), {line: ids[line]}) for line in lines[:MOST_ROWS]]
    rows = [token_view(text.tokenize(p), i, text.vocabulary, end_token, text.token_text) for p, i in prompts]
    return {"rows": rows, "tokenizer": "standard" if found is None else "connected"}
