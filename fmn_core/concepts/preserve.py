"""The preserve set: preserve prompts, preserved names in the concepts' templates, and imagined words."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..model.protocol import TextModel
from ..model.token_table import token_rows, trained_tokens
from ..model.tokens import PLACEHOLDER, EncodedPrompt, find_subsequence
from .concept import Concept, Name
from .templates import everyday_captions, fill_template, spread_templates, style_slots

# A preserve line of up to this many words is a name ("horse", "green apple"), a longer one is a prompt.
NAME_WORDS = 3
TEMPLATES_PER_NAME = 8
# Imagined words for one concept, and for several at once.
IMAGINED_WORDS, MOST_IMAGINED = 400, 1000
_ROWS_PER_DRAW = 4096
_STYLE_SEED = 1
_ARTICLES = ("a", "an", "the")


def preserve_groups(
    model: TextModel,
    concepts: list[Concept],
    lines: list[str],
    use_everyday_captions: bool,
    words: Sequence[str] = (),
) -> list[list[str]]:
    """Builds the preserve prompts, in groups that collect_moments does not split between its halves.

    Parameters
    ----------
    model
        Tokenizes the lines.
    concepts
        The concepts to forget. Lines and captions that contain one of their phrases are dropped, because they ask for the opposite,
        except those of `longer_names`.
    lines
        Prompts, and names of up to NAME_WORDS words.
    use_everyday_captions
        Adds the built-in captions.
    words
        Words of the model's vocabulary, each of which is kept in the first template of the concepts.

    Returns
    -------
    Groups of prompts: the empty prompt, then each prompt alone, and each name with the prompts of some of the concepts' templates.
    """
    templates = _templates_of(concepts)
    captions = everyday_captions() if use_everyday_captions else ()
    groups = [[""]]
    for line in without_concepts(model, concepts, [*lines, *captions], lines):
        is_name = line in lines and len(line.split()) <= NAME_WORDS
        groups.append([line, *(fill_template(t, line) for t in templates)] if is_name else [line])
    return groups + [[fill_template(templates[0], word)] for word in words]


def _templates_of(concepts: list[Concept]) -> list[str]:
    return spread_templates((t for c in concepts for t in c.templates), TEMPLATES_PER_NAME)


def imagined_words(model: TextModel, count: int, seed: int = 0) -> list[Name]:
    """Draws imagined words from the distribution of the vocabulary's embeddings, one vector each.

    Preserving them keeps the edit narrow for words that are in no list.

    Notes
    -----
    A draw is the mean of the embedding table plus a random combination of its rows, which has the table's covariance. Rows of zeros
    were never trained and are left out. Text encoders with the same vocabulary use the same rows and the same combination.
    """
    generator, drawn, draws = torch.Generator().manual_seed(seed), dict[int, tuple[torch.Tensor, torch.Tensor]](), {}
    for name, table in model.token_embeddings().items():
        if len(table) not in drawn:
            trained = trained_tokens(table).nonzero().flatten()
            rows = trained[torch.randperm(len(trained), generator=generator)[:_ROWS_PER_DRAW]]
            drawn[len(table)] = rows, torch.randn(count, len(rows), generator=generator) / len(rows) ** 0.5
        rows, mixture = drawn[len(table)]
        sampled = token_rows(table, rows)
        draws[name] = sampled.mean(0) + mixture @ (sampled - sampled.mean(0))
    return [Name(PLACEHOLDER, {name: d[i : i + 1] for name, d in draws.items()}) for i in range(count)]


def imagined_word_count(per_concept: int, concepts: int) -> int:
    """The number of imagined words for several concepts at once: `per_concept` for each, up to MOST_IMAGINED.

    An edit for several concepts changes more directions, and few draws would not cover them all.
    """
    return max(per_concept, min(per_concept * concepts, MOST_IMAGINED))


def encode_imagined(
    model: TextModel, concepts: list[Concept], count: int = IMAGINED_WORDS, padding: int | None = None
) -> list[EncodedPrompt]:
    """Encodes imagined words in the concepts' templates, one template after another; `padding` as in TextModel.encode."""
    return _encode_words(model, imagined_words(model, count), _templates_of(concepts), padding)


def encode_imagined_styles(model: TextModel, count: int, padding: int | None = None) -> list[EncodedPrompt]:
    """Encodes imagined words as styles, of everyday subjects and of none; `padding` as in TextModel.encode.

    A user's prompt names styles that are in no list. Rows after a style vary with it, and a solve that has seen no style takes some of
    that variation for the concept.
    """
    return _encode_words(model, imagined_words(model, count, _STYLE_SEED), style_slots(), padding)


def _encode_words(
    model: TextModel, names: list[Name], templates: Sequence[str], padding: int | None
) -> list[EncodedPrompt]:
    texts = [fill_template(templates[k % len(templates)], name.text) for k, name in enumerate(names)]
    return model.encode(texts, [name.embedding for name in names], padding)


def longer_names(model: TextModel, concepts: Sequence[Concept], lines: Sequence[str]) -> list[str]:
    """The lines that are longer names with a phrase of the concepts in them, such as "zebra crossing" for "zebra".

    A longer name has at most NAME_WORDS words, articles not counted, and at least one word more than the phrase.
    """
    held = _held_phrases(model, concepts, lines)
    return [line for line, phrases in held.items() if _is_longer_name(line, phrases)]


def without_concepts(
    model: TextModel, concepts: Sequence[Concept], prompts: Sequence[str], names: Sequence[str] = ()
) -> list[str]:
    """The distinct prompts that contain no phrase of the concepts, and those of `names` that are longer names with one."""
    held, may_be_names = _held_phrases(model, concepts, prompts), set(names)
    return [p for p, phrases in held.items() if not phrases or (p in may_be_names and _is_longer_name(p, phrases))]


def _held_phrases(model: TextModel, concepts: Sequence[Concept], texts: Sequence[str]) -> dict[str, list[str]]:
    """The phrases that each distinct text contains, compared by the tokens of any text encoder with those of the first."""
    ids_of = {phrase: list(model.phrase_tokens(phrase).values()) for concept in concepts for phrase in concept.phrases}
    held = {}
    for text in dict.fromkeys(texts):
        ids = next(iter(model.phrase_tokens(text).values()), [])
        held[text] = [p for p, wanted in ids_of.items() if any(find_subsequence(ids, w) for w in wanted)]
    return held


def _is_longer_name(line: str, phrases: Sequence[str]) -> bool:
    words = [word for word in line.lower().split() if word not in _ARTICLES]
    named = [phrase.lower().split() for phrase in phrases]
    # "a photo of a zebra" is no name of another thing.
    forgotten = any(words == name or words[-len(name) - 1 :] == ["of", *name] for name in named)
    return not forgotten and len(words) <= NAME_WORDS and any(len(words) > len(phrase.split()) for phrase in phrases)
