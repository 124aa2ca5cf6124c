"""Phrases and prompts for the peers: concepts to forget and concepts to preserve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from bench.names import MINIATURE_NAMES, names_of
from fmn_core.closed_form.settings import VOCABULARY_WORDS
from fmn_core.closed_form.vocabulary import related_words
from fmn_core.concepts.concept import make_concept
from fmn_core.concepts.preserve import (
    IMAGINED_WORDS,
    encode_imagined,
    encode_imagined_styles,
    imagined_word_count,
    preserve_groups,
)
from fmn_core.concepts.templates import default_templates, fill_template, templates_for

STYLE_PROMPT = "an image in the style of {}"
_IN_STYLE = re.compile(r"(,| in)? (the style of \{\}|\{\} style)$")


class Forgotten(NamedTuple):
    """A concept to be forgotten.

    Parameters
    ----------
    phrase
        The words that name it.
    kind
        object, identity or style.
    anchors
        Phrases of the same kind that may take the phrase's place; empty: the miniature's.
    """

    phrase: str
    kind: str
    anchors: tuple[str, ...] = ()


def forgotten(world: Any, names: Sequence[str]) -> list[Forgotten]:
    """The concepts to forget, looked up by their names in the world."""
    lookup = names_of(world)
    return [Forgotten(lookup.phrase(name), lookup.kind(name), tuple(lookup.anchors(name))) for name in names]


def preserved(world: Any, names: Sequence[str]) -> list[str]:
    """Phrases of the world's other concepts and styles, for methods that take a list to preserve."""
    return names_of(world).all_others(names)


def prompt_of(concept: Forgotten, template: str = "{}") -> str:
    """The prompt of a method that trains on a single one: a filled template, or for a style STYLE_PROMPT."""
    return (STYLE_PROMPT if concept.kind == "style" else template).format(concept.phrase)


def phrase_in_templates(concept: Forgotten) -> list[str]:
    """The phrase in each of fmn_core's templates for it, as the closed form forgets it."""
    return [fill_template(template, concept.phrase) for template in templates_for(concept.kind, [concept.phrase])]


def default_preserve_set(adapter: Any, concepts: Sequence[Forgotten], excluded: Sequence[str] = ()) -> list[Any]:
    """What the closed form preserves where nothing is listed, encoded: "", everyday captions, words of the vocabulary and imagined words.

    Parameters
    ----------
    excluded
        Prompts to leave out, because they are preserved anyway.
    """
    described = [make_concept(adapter, c.phrase, c.kind) for c in concepts]
    words = related_words(adapter, described, VOCABULARY_WORDS).kept()
    groups = preserve_groups(adapter, described, [], True, words)
    texts = [text for group in groups for text in group if text not in excluded]
    half = imagined_word_count(IMAGINED_WORDS, len(described)) // 2
    return [*adapter.encode(texts), *encode_imagined(adapter, described, half), *encode_imagined_styles(adapter, half)]


def neighbour(adapter: Any, concept: Forgotten, excluded: Sequence[str] = ()) -> str:
    """The nearest concept of the same kind, which serves as an anchor where no superordinate is known.

    Notes
    -----
    Nearest by the cosine of the last rows of "a picture of a X", after the mean over all names is subtracted, because
    the rows have most of it in common.
    """
    candidates = concept.anchors or MINIATURE_NAMES.of_kind(concept.kind)
    names = [n for n in candidates if n not in excluded and n != concept.phrase]
    prompts = adapter.encode([f"a picture of a {name}" for name in (concept.phrase, *names)])
    rows = torch.stack([p.context[-1] for p in prompts])
    unit, *candidate_units = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    return names[int((torch.stack(candidate_units) @ unit).argmax())]


def paired_prompts(concept: Forgotten, anchor: str, count: int) -> list[tuple[str, str]]:
    """At most `count` prompts with the phrase, each paired with one that names the anchor, or for a style no style.

    Notes
    -----
    The templates are fmn_core's defaults. Concept Ablation's prompts come from here, and MACE takes the first of the same
    templates, so these two have this pack's contexts already; UCE, RECE and ESD have them where `our_contexts` is set.
    FMN and SPM train on a single prompt.
    """
    templates = default_templates(concept.kind)
    if concept.kind != "style":
        return [(t.format(concept.phrase), t.format(anchor)) for t in templates[:count]]
    named = [t for t in templates if _IN_STYLE.search(t) and not t.startswith("a photo in")]
    return [(t.format(concept.phrase), _IN_STYLE.sub("", t)) for t in named[:count]]
