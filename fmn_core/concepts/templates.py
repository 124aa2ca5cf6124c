"""Prompt templates by kind of concept, and the everyday captions that are preserved by default."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from ..errors import ForgetError
from .limits import LONGEST_LINE, MOST_LINES, MOST_TEMPLATES, check_lines

KINDS = ("object", "identity", "style", "unsafe")
_DATA = Path(__file__).resolve().parent / "data"
_WORD = re.compile(r"\w+")

# The code released with the paper has one template per kind, "a photo of X" and "a photo in the style of X"; these come first.
# The others, some with words after the phrase, make the forgetting hold on prompts that are not listed.
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
# Prompts for a style name a subject X: from templates without one, "X in NAME style" is not forgotten.
_STYLE_FORMS = (
    "a picture of X in {} style",
    "X in {} style",
    "a drawing of X in the style of {}",
    "a painting of X by {}",
    "a {} picture of X",
    "X, {} style",
    "a photo of X in the style of {}",
)
# Many subjects, each in three of the forms: a solve on few subjects distorts the others.
_SUBJECTS = (
    "a village", "a cow", "a bus", "a tree", "a woman", "a bowl of fruit", "a city street", "a bird", "a boat", "a chair", "a flower",
    "a mountain", "a child", "a sheep", "a table", "a bottle", "a hat", "a fish", "a statue", "a book", "a man", "a train", "a cup of tea",
    "a castle", "a lamp", "a shoe", "a cloud", "a bear", "a sandwich", "a bridge", "a clock", "a garden",
)  # fmt: skip
_FORMS_PER_SUBJECT = (0, 2, 4)
# Prompts that name a style and no subject: what is left of a prompt whose subject is forgotten.
_BARE_STYLE_FORMS = ("a picture in {} style", "{} style", "an image in the style of {}", "a {} picture", "{}")
# Words after the phrase. No list holds every style: imagined words in the style templates stand for those that users will name, see
# preserve.encode_imagined.
_ENDINGS = ("", " in the style of art", " on a table", ", highly detailed")


@cache
def default_templates(kind: str) -> tuple[str, ...]:
    """The built-in templates of a kind; raises ForgetError on an unknown kind."""
    if kind not in KINDS:
        raise ForgetError(f"Expected a kind of {', '.join(KINDS)}, got {kind!r}.")
    if kind == "style":
        forms = (
            (_STYLE_FORMS[(n + k) % len(_STYLE_FORMS)], subject)
            for n, subject in enumerate(_SUBJECTS)
            for k in _FORMS_PER_SUBJECT
        )
        return ("a photo in the style of {}", "{}", *(form.replace("X", subject) for form, subject in forms))
    return tuple(opening + ending for ending in _ENDINGS for opening in _OPENINGS[kind])


@cache
def style_slots() -> tuple[str, ...]:
    """Prompts with `{}` where a style is named: everyday subjects in it, and in every third one no subject."""
    with_subject = default_templates("style")[2:]
    prompts = []
    for n in range(len(with_subject) // 2):
        prompts += [*with_subject[2 * n : 2 * n + 2], _BARE_STYLE_FORMS[n % len(_BARE_STYLE_FORMS)]]
    return tuple(prompts)


def templates_for(kind: str, phrases: Sequence[str]) -> tuple[str, ...]:
    """The default templates that do not contain a phrase of the concept, or all of them if every one does.

    "a {} on a table" would preserve "table" while another template forgets it.
    """
    forgotten = [f" {' '.join(_WORD.findall(phrase.lower()))} " for phrase in phrases]
    templates = default_templates(kind)
    usable = [t for t in templates if not any(p in f" {' '.join(_WORD.findall(t.lower()))} " for p in forgotten)]
    return tuple(usable) or templates


def spread_templates(templates: Iterable[str], count: int) -> list[str]:
    """Samples at least `count`, and fewer than twice as many, of the distinct templates, evenly spread over the list.

    All of them are returned where there are fewer.
    """
    distinct = list(dict.fromkeys(templates))
    return distinct[:: max(1, len(distinct) // count)]


def split_lines(text: str) -> list[str]:
    """The lines of a text box, trimmed, without empty ones; repeats stay."""
    return [line.strip() for line in text.splitlines() if line.strip()]


@cache
def everyday_captions() -> tuple[str, ...]:
    """The built-in everyday captions, one per line of data/everyday_captions.txt."""
    return tuple(line for line in (_DATA / "everyday_captions.txt").read_text().splitlines() if line.strip())


def parse_lines(text: str, subject: str = "lines", most: int = MOST_LINES, longest: int = LONGEST_LINE) -> list[str]:
    """The distinct lines of a text box, trimmed, without empty ones; raises ForgetError beyond the limits, see check_lines."""
    lines = list(dict.fromkeys(split_lines(text)))
    return list(check_lines(lines, subject, most, longest))


def fill_template(template: str, phrase: str) -> str:
    """Puts a phrase in place of a template's `{}`.

    Nothing else is interpreted, unlike in str.format: templates come from other people's files too.
    """
    return template.replace("{}", phrase)


def check_templates(templates: Sequence[str]) -> list[str]:
    """Returns the templates unchanged if each can be filled.

    Raises
    ------
    ForgetError
        On too many or too long templates, and on one without exactly one `{}` or with another brace.
    """
    for template in check_lines(templates, "templates", MOST_TEMPLATES):
        if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
            raise ForgetError(
                f"Expected one {{}} for the phrase in every template and no other {{ or }}, got {template[:200]!r}. Correct the template."
            )
    return list(templates)
