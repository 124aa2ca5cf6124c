"""What is to be kept: preserve prompts, names that go through the concept's templates, and imagined words."""

from __future__ import annotations

import torch

from ..model.protocol import TextModel
from ..model.token_table import token_rows, trained_tokens
from ..model.tokens import PLACEHOLDER, EncodedPrompt
from .concept import Concept, Name
from .templates import everyday_captions, fill_template

# A preserve line of so many words is a name ("horse", "green apple"), a longer one is a prompt.
NAME_WORDS = 3
TEMPLATES_PER_NAME = 8
# Words that nobody listed are kept too, through words that nobody ever said: see imagined_words.
IMAGINED_WORDS, MOST_IMAGINED = 200, 1000
_ROWS_PER_DRAW = 4096


def preserve_groups(
    model: TextModel, concepts: list[Concept], lines: list[str], use_everyday_captions: bool
) -> list[list[str]]:
    """Prompts to preserve, in groups that belong together: a prompt alone, or a name in several of the templates.

    Lines and captions that name a concept to be forgotten are dropped: they would ask for both. The empty prompt is
    always kept.
    """
    chosen = spread_templates(concepts)
    captions = everyday_captions() if use_everyday_captions else ()
    groups = [[""]]
    for line in without_concepts(model, concepts, [*lines, *captions]):
        is_name = line in lines and len(line.split()) <= NAME_WORDS
        groups.append([line, *(fill_template(t, line) for t in chosen)] if is_name else [line])
    return groups


def spread_templates(concepts: list[Concept]) -> list[str]:
    """Some of the concepts' templates, spread over all of them; one that several concepts have counts once."""
    templates = list(dict.fromkeys(t for c in concepts for t in c.templates))
    return templates[:: max(1, len(templates) // TEMPLATES_PER_NAME)]


def imagined_words(model: TextModel, count: int, seed: int = 0) -> list[Name]:
    """Words that do not exist, drawn from the distribution of the vocabulary's embeddings, one vector each.

    A draw is the mean of the table plus a random combination of its rows, which has the table's covariance. Preserving
    them keeps whatever the edit does narrow, also for words that are in no list. Rows of zeros were never trained and
    are left out; encoders with one vocabulary share a draw.
    """
    tables = model.token_embeddings()
    generator = torch.Generator().manual_seed(seed)
    trained = trained_tokens(next(iter(tables.values()))).nonzero().flatten()
    rows = trained[torch.randperm(len(trained), generator=generator)[:_ROWS_PER_DRAW]]
    mixture = torch.randn(count, len(rows), generator=generator) / len(rows) ** 0.5
    drawn = {name: token_rows(table, rows) for name, table in tables.items()}
    draws = {name: t.mean(0) + mixture @ (t - t.mean(0)) for name, t in drawn.items()}
    return [Name(PLACEHOLDER, {name: d[i : i + 1] for name, d in draws.items()}) for i in range(count)]


def imagined_in_all(per_concept: int, concepts: int) -> int:
    """How many words are imagined for several concepts at once: so many for each, up to MOST_IMAGINED.

    An edit for many concepts moves more directions, and few draws would leave some of them unseen.
    """
    return max(per_concept, min(per_concept * concepts, MOST_IMAGINED))


def encode_imagined(
    model: TextModel, concepts: list[Concept], count: int = IMAGINED_WORDS, padding: int | None = None
) -> list[EncodedPrompt]:
    """Imagined words in the concepts' templates, in turn; `padding` as in TextModel.encode."""
    chosen, names = spread_templates(concepts), imagined_words(model, count)
    texts = [fill_template(chosen[k % len(chosen)], name.text) for k, name in enumerate(names)]
    return model.encode(texts, [name.word for name in names], padding)


def without_concepts(model: TextModel, concepts: list[Concept], prompts: list[str]) -> list[str]:
    """Drops prompts that hold a phrase to be forgotten, and repeats."""
    forgotten = [ids for c in concepts for p in c.phrases for ids in model.phrase_tokens(p).values()]

    def names_one(prompt: str) -> bool:
        ids = next(iter(model.phrase_tokens(prompt).values()), [])
        return any(phrase == ids[i : i + len(phrase)] for phrase in forgotten for i in range(len(ids)))

    return [p for p in dict.fromkeys(prompts) if not names_one(p)]
