"""Phrases and prompts for the peers: what to forget and what to preserve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from bench.names import MINIATURE, names_of
from fmn_core.concepts.templates import default_templates

STYLE_PROMPT = "an image in the style of {}"
_IN_STYLE = re.compile(r"(,| in)? (the style of \{\}|\{\} style)$")


class Forgotten(NamedTuple):
    """A phrase to be forgotten and its kind: object, identity or style.

    `anchors`: phrases of that kind, one of which may stand in its place; without any, the miniature's.
    """

    phrase: str
    kind: str
    anchors: tuple[str, ...] = ()


def forgotten(world: Any, names: Sequence[str]) -> list[Forgotten]:
    """Names of a world's concepts as phrases with their kinds."""
    known = names_of(world)
    return [Forgotten(known.phrase(name), known.kind(name), tuple(known.anchors(name))) for name in names]


def preserved(world: Any, names: Sequence[str]) -> list[str]:
    """The world's other concepts and styles: what methods that take a list to preserve are given."""
    return names_of(world).all_others(names)


def prompt_of(concept: Forgotten, template: str = "{}") -> str:
    """The one prompt of methods that train on one: the template, and for styles "an image in the style of X"."""
    return (STYLE_PROMPT if concept.kind == "style" else template).format(concept.phrase)


def neighbour(adapter: Any, concept: Forgotten, excluded: Sequence[str] = ()) -> str:
    """The concept of the same kind that the text encoder finds nearest: an anchor where no superordinate is known.

    Cosine of the last row of "a picture of a X", the mean over all names taken off, which most of the rows have in common.
    """
    candidates = concept.anchors or MINIATURE.of_kind(concept.kind)
    names = [n for n in candidates if n not in excluded and n != concept.phrase]
    prompts = adapter.encode([f"a picture of a {name}" for name in (concept.phrase, *names)])
    rows = torch.stack([p.context[-1] for p in prompts])
    own, *others = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    return names[int((torch.stack(others) @ own).argmax())]


def paired_prompts(concept: Forgotten, instead: str, count: int) -> list[tuple[str, str]]:
    """`count` prompts with the phrase, each beside the same prompt with another word; for styles, without the style.

    They are fmn_core's own templates, so that all methods have seen the same prompts.
    """
    templates = default_templates(concept.kind)
    if concept.kind != "style":
        return [(t.format(concept.phrase), t.format(instead)) for t in templates[:count]]
    named = [t for t in templates if _IN_STYLE.search(t) and not t.startswith("a photo in")]
    return [(t.format(concept.phrase), _IN_STYLE.sub("", t)) for t in named[:count]]
