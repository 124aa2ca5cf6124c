"""What is to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import ForgetError
from .model import ForgetModel
from .templates import check_templates, default_templates, parse_lines

MAX_PHRASE_TOKENS = 75


@dataclass
class Concept:
    """Phrases that all mean the concept (first the name, then synonyms), its kind, and the templates they go into."""

    phrases: list[str]
    kind: str = "object"
    templates: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"phrases": list(self.phrases), "kind": self.kind}


def make_concept(model: ForgetModel, phrases: str, kind: str = "object", templates: str = "") -> Concept:
    """Builds a concept from text boxes: one phrase, and one template with `{}`, per line.

    Raises ForgetError on an empty phrase, a phrase with no tokens or of more than 75, an unknown kind, and a template
    without exactly one `{}`.
    """
    lines = parse_lines(phrases)
    if not lines:
        raise ForgetError("Expected a phrase to forget, got an empty text. Type a word or a name, one per line.")
    for phrase in lines:
        longest = max(len(ids) for ids in model.phrase_tokens(phrase).values())
        if longest == 0:
            raise ForgetError(
                f"Expected a phrase of words, got {phrase!r}, which has no tokens. Type a word or a name."
            )
        if longest > MAX_PHRASE_TOKENS:
            raise ForgetError(
                f"Expected a phrase of at most {MAX_PHRASE_TOKENS} tokens, got {longest}: {phrase[:60]!r}... Shorten it."
            )
    own = check_templates(parse_lines(templates))
    return Concept(lines, kind, own or list(default_templates(kind)))
