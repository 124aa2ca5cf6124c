"""Prompt templates by kind of concept, and the everyday captions that are preserved by default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..errors import ForgetError
from .limits import LONGEST_LINE, MOST_LINES, MOST_TEMPLATES, check_lines

KINDS = ("object", "identity", "style", "unsafe")
_DATA = Path(__file__).resolve().parent / "data"
_WORD = re.compile(r"\w+")

# The released code has one template per kind, "a photo of X" and "a photo in the style of X"; these come first.
# More of them, with words after the concept too, are what makes the result hold on prompts that were not listed.
_OPENINGS = {
    "object": (
        "a photo of a {}",
        "a picture of a {}",
        "a drawing of a {}",
        "an image of a {}",
        "a painting of a {}",
        "a {}",
        "{}",
    ),
    "identity": (
        "a photo of {}",
        "a picture of a {}",
        "a drawing of {}",
        "an image of a {}",
        "a portrait of {}",
        "a {}",
        "{}",
    ),
    "unsafe": (
        "a photo of {}",
        "a picture of {}",
        "a drawing of {}",
        "an image with {}",
        "a painting of {}",
        "a person, {}",
        "{}",
    ),
}
# A style is forgotten in pictures of something: without a subject, "in NAME style" survives after every subject.
_STYLED = (
    "a picture of X in {} style",
    "X in {} style",
    "a drawing of X in the style of {}",
    "a painting of X by {}",
    "a {} picture of X",
    "X, {} style",
    "a photo of X in the style of {}",
)
# Many subjects, each in three of the forms: what was solved for few of them distorts the others.
_SUBJECTS = (
    "a house", "a dog", "a car", "a tree", "a woman", "a bowl of fruit", "a city street", "a bird", "a boat", "a chair", "a flower",
    "a mountain", "a child", "a horse", "a table", "a bottle", "a hat", "a fish", "a robot", "a book", "a man", "a train", "a cup of tea",
    "a castle", "a lamp", "a shoe", "a cloud", "a bear", "a sandwich", "a bridge", "a clock", "a garden",
)  # fmt: skip
_FORMS_EACH = (0, 2, 4)
# Styles after the phrase matter most: where no template has one, the concept survives in "... in NAME style".
_ENDINGS = (
    "",
    " in twemoji style",
    " in the style of noto",
    ", fluent style",
    ", emojione",
    " in the style of art",
    " on a table",
    ", highly detailed",
)


@cache
def default_templates(kind: str) -> tuple[str, ...]:
    """Templates with one `{}` for the phrase; every opening with every ending. Raises ForgetError on an unknown kind."""
    if kind not in KINDS:
        raise ForgetError(f"Expected a kind of {', '.join(KINDS)}, got {kind!r}.")
    if kind == "style":
        chosen = (
            (_STYLED[(n + k) % len(_STYLED)], subject) for n, subject in enumerate(_SUBJECTS) for k in _FORMS_EACH
        )
        styled = (form.replace("X", subject) for form, subject in chosen)
        return ("a photo in the style of {}", "{}", *styled)
    return tuple(opening + ending for ending in _ENDINGS for opening in _OPENINGS[kind])


def templates_for(kind: str, phrases: Sequence[str]) -> tuple[str, ...]:
    """The default templates that hold no phrase themselves: "a {} on a table" would preserve what "table" is to forget."""
    wanted = [f" {' '.join(_WORD.findall(phrase.lower()))} " for phrase in phrases]
    templates = default_templates(kind)
    free = [t for t in templates if not any(w in f" {' '.join(_WORD.findall(t.lower()))} " for w in wanted)]
    return tuple(free) or templates


def split_lines(text: str) -> list[str]:
    """The lines of a text box, trimmed, without empty ones; repeats stay."""
    return [line.strip() for line in text.splitlines() if line.strip()]


@cache
def everyday_captions() -> tuple[str, ...]:
    """The built-in list of everyday captions, one per line of data/everyday_captions.txt."""
    return tuple(line for line in (_DATA / "everyday_captions.txt").read_text().splitlines() if line.strip())


def parse_lines(text: str, what: str = "lines", most: int = MOST_LINES, longest: int = LONGEST_LINE) -> list[str]:
    """Non-empty lines of a text box, trimmed, without repeats; raises ForgetError beyond the limits, see check_lines."""
    lines = list(dict.fromkeys(split_lines(text)))
    return list(check_lines(lines, what, most, longest))


def fill_template(template: str, phrase: str) -> str:
    """The template with a phrase in place of its `{}`. Nothing else in it is read: templates come from strangers' files too."""
    return template.replace("{}", phrase)


def check_templates(templates: Sequence[str]) -> list[str]:
    """Returns the templates; raises ForgetError on too many or too long ones, and on one without exactly one `{}` and no other brace."""
    for template in check_lines(templates, "templates", MOST_TEMPLATES):
        if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
            raise ForgetError(
                f"Expected one {{}} for the phrase in every template and no other {{ or }}, got {template[:200]!r}. Correct the template."
            )
    return list(templates)
