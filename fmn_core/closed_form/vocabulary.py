"""Words of the model's own vocabulary that are near a concept: its synonyms, and neighbours to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ..concepts.concept import Concept
from ..concepts.templates import fill_template
from ..model.entries import CONTEXT, chosen_entries, text_weights
from ..model.protocol import ForgetModel, TextModel
from ..model.token_table import mean_embedding, token_rows
from .collect import PADDING
from .targets import ablated

# Similarity from which a word is the concept under another name, and from which it is a neighbour. On the miniature, synonyms of the
# four concepts that settings are chosen on have .95 and more, the nearest other things .82 and less.
SYNONYM, NEIGHBOUR = 0.9, 0.3
# Share of the words that is spread over the whole vocabulary. Their mean says what all words have in common.
_SPREAD = 1 / 3
# Layers whose values are compared. More of them cost memory for SDXL and change little.
_LAYERS = 8
_ROWS = 4096
# Of the words that contain a phrase, such as its plural and its compounds, so many are compared.
_HOLDING = 16


@dataclass
class RelatedWords:
    """Words of the vocabulary that were compared with concepts.

    Attributes
    ----------
    synonyms
        Words that act like a concept, with the number of the concept and the similarity, -1..1; the most similar first.
    neighbours
        Words near a concept, with their similarity. They are kept.
    far
        Other words that were compared. They are kept too.
    """

    synonyms: dict[str, tuple[int, float]] = field(default_factory=dict)
    neighbours: dict[str, float] = field(default_factory=dict)
    far: list[str] = field(default_factory=list)

    def kept(self) -> list[str]:
        """All words to keep: neighbours, then far ones."""
        return [*self.neighbours, *self.far]

    def as_figures(self) -> dict[str, dict[str, float]]:
        """Synonyms and neighbours with their similarity, for reports and metadata."""
        synonyms = {word: round(similarity, 3) for word, (_, similarity) in self.synonyms.items()}
        return {"synonyms": synonyms, "neighbours": {w: round(s, 3) for w, s in self.neighbours.items()}}


def related_words(model: ForgetModel, concepts: Sequence[Concept], count: int) -> RelatedWords:
    """Compares words of the vocabulary with concepts, by what the model's cross-attention makes of them.

    Parameters
    ----------
    concepts
        The concepts; those without phrases are left out.
    count
        Number of words to compare for each concept: those with the nearest token embeddings, words that contain a phrase, and a third
        spread over the whole vocabulary.

    Returns
    -------
    The words, without those that the phrases consist of.

    Notes
    -----
    A word's effect is V(c) - V(c') at the last row, with c the concept's first template with the word, c' without it, and V the values of
    up to 8 layers. The similarity of two words is the cosine of their effects, after the mean effect of words from all over the
    vocabulary is subtracted.
    """
    named = [(number, concept) for number, concept in enumerate(concepts) if concept.phrases]
    vocabulary = model.words() if count else {}
    own = {token for _, c in named for p in c.phrases for token in next(iter(model.phrase_tokens(p).values()))}
    words = {token: word for token, word in vocabulary.items() if token not in own}
    if not named or not words:
        return RelatedWords()
    spread = _spread(list(words.values()), round(count * _SPREAD))
    compared: dict[str, tuple[int, float]] = {}
    for number, concept in named:
        near = _nearest(model, concept, words, count - len(spread))
        for word, similarity in _similarities(model, concept, list(dict.fromkeys([*near, *spread])), spread).items():
            if _is_plural_of(word, concept.phrases):
                similarity = max(similarity, SYNONYM)
            if word not in compared or similarity > compared[word][1]:
                compared[word] = number, similarity
    ordered = sorted(compared.items(), key=lambda item: -item[1][1])
    return RelatedWords(
        {word: entry for word, entry in ordered if entry[1] >= SYNONYM},
        {word: s for word, (_, s) in ordered if NEIGHBOUR <= s < SYNONYM},
        [word for word, (_, s) in ordered if s < NEIGHBOUR],
    )


def with_synonyms(concepts: Sequence[Concept], related: RelatedWords) -> list[Concept]:
    """Copies of the concepts with their synonyms as further phrases."""
    extended = []
    for number, concept in enumerate(concepts):
        known = {phrase.lower() for phrase in concept.phrases}
        further = [word for word, (owner, _) in related.synonyms.items() if owner == number and word not in known]
        extended.append(replace(concept, phrases=[*concept.phrases, *further]))
    return extended


def _spread(words: list[str], count: int) -> list[str]:
    """At most `count` words at equal distances in a list."""
    return words[:: max(1, -(-len(words) // max(1, count)))]


def _nearest(model: TextModel, concept: Concept, words: dict[int, str], count: int) -> list[str]:
    """The words whose token embeddings are nearest to one of the concept's tokens, by their centred cosine."""
    table, ids = next(iter(model.token_embeddings().values())), list(words)
    centre = mean_embedding(table)
    tokens = {token for p in concept.phrases for token in next(iter(model.phrase_tokens(p).values())) if token >= 0}
    if not tokens:
        return []
    anchors = torch.nn.functional.normalize(token_rows(table, sorted(tokens)) - centre, dim=1)
    cosines = []
    for start in range(0, len(ids), _ROWS):
        rows = token_rows(table, ids[start : start + _ROWS])
        # A row of zeros was never trained, and means nothing.
        trained = rows.abs().amax(1) > 0
        units = torch.nn.functional.normalize(rows - centre, dim=1)
        cosines.append(torch.where(trained, (units @ anchors.T).amax(1), -torch.inf))
    values, order = torch.cat(cosines).sort(descending=True, stable=True)
    near = [words[ids[i]] for i in order[values > -torch.inf]]
    holding = [word for word in near if any(p.strip().lower() in word for p in concept.phrases)]
    return list(dict.fromkeys([*holding[:_HOLDING], *near]))[:count]


def _is_plural_of(word: str, phrases: Sequence[str]) -> bool:
    return any(word == p.strip().lower() + ending for p in phrases for ending in ("s", "es"))


def _similarities(model: ForgetModel, concept: Concept, words: list[str], spread: list[str]) -> dict[str, float]:
    """The largest similarity of each word to a phrase of the concept, -1..1."""
    template = concept.templates[0] if concept.templates else "{}"
    prompts = [ablated(template), *(fill_template(template, text) for text in [*words, *spread, *concept.phrases])]
    rows = torch.stack([p.context[-1] for p in model.encode(prompts, padding=PADDING)])
    effects = _values(model, rows[1:] - rows[0])
    effects = effects - effects[len(words) : len(words) + len(spread)].mean(0)
    units = torch.nn.functional.normalize(effects, dim=1)
    cosines = (units[: len(words)] @ units[len(words) + len(spread) :].T).amax(1)
    return dict(zip(words, cosines.tolist()))


def _values(model: ForgetModel, rows: torch.Tensor) -> torch.Tensor:
    """Values, or what else reads the rows, of some layers, evenly spread, for rows (n, dim), each layer relative to the norm of its weights: (n, sum of widths)."""
    entries = chosen_entries(model, CONTEXT, "values")
    weights = text_weights(model, entries[:: -(-len(entries) // _LAYERS)], "cpu")
    return torch.cat([rows @ (w / w.norm()).T for w in weights], dim=1)
