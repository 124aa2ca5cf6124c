"""How far an edit goes in contexts that no template has, and the overshoot that makes up for what is missing there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..concepts.concept import Concept
from ..concepts.preserve import imagined_words
from ..concepts.templates import fill_template
from ..model.protocol import TextModel
from ..model.tokens import PLACEHOLDER, EncodedPrompt
from .collect import PADDING
from .moments import Moments
from .targets import ABLATED, BY_KIND, OVERSHOOTS, ablated, context_columns, first_steered, steered_pair

# A context is the phrase in an imagined style, because users name styles that are in no list.
_FORMS = tuple(
    form.replace("STYLE", PLACEHOLDER)
    for form in (
        "a picture of a {} in STYLE style",
        "a {} in STYLE style",
        "a drawing of a {} in the style of STYLE",
        "a {}, STYLE style",
        "a photo of a {}, STYLE",
        "an image of a {}, STYLE",
    )
)
_CONTEXTS, _LEAST_PER_NAME, _SEED = 48, 2, 2
# Share of the way to the target that suffices in an imagined style, and the largest overshoot. On zebra, dog, frog and umbrella of the
# miniature, less leaves traces in styles of no template, more loses the style of some prompts.
SUFFICIENT, LARGEST = 1.0, 0.4


@dataclass
class UnseenContext:
    """A name in an imagined style, the context without the name, and the name's columns in each of their blocks, encoded."""

    full: EncodedPrompt
    bare: EncodedPrompt
    columns: list[list[int]]


def unseen_contexts(
    model: TextModel, concepts: Sequence[Concept], target: str, overshoot: float
) -> list[UnseenContext] | None:
    """Encodes the phrases in imagined styles.

    Parameters
    ----------
    target, overshoot
        As in ClosedFormSettings.

    Returns
    -------
    The contexts, or None where the overshoot is chosen otherwise: by the user, by the kind, or for another target.
    """
    names = [n for c in concepts if c.kind not in OVERSHOOTS for n in c.names() if n.embedding is None]
    if target != ABLATED or overshoot != BY_KIND or not names:
        return None
    count = max(_CONTEXTS, _LEAST_PER_NAME * len(names))
    styles = [word.embedding for word in imagined_words(model, count, _SEED)]
    chosen = [(names[k % len(names)], _FORMS[(k // len(names)) % len(_FORMS)]) for k in range(count)]
    full = model.encode([fill_template(form, name.text) for name, form in chosen], styles, PADDING)
    bare = model.encode([ablated(form) for _, form in chosen], styles, PADDING)
    return [
        UnseenContext(prompt, without, [context_columns(model, block, name) for block in prompt.blocks])
        for (name, _), prompt, without in zip(chosen, full, bare)
    ]


def unseen_rows(contexts: Sequence[UnseenContext], like: Moments) -> Moments:
    """Moments of the rows that the phrase moves, without its own; as the moments `like` have them."""
    unseen = like.without_rows()
    for context in contexts:
        for full, bare, columns in zip(context.full.blocks, context.bare.blocks, context.columns):
            source, aim = steered_pair(full, bare, columns, [])
            first = first_steered(full, columns)
            others = [row for row in range(len(source)) if first + row not in columns]
            unseen.add_pair(source[others], aim[others])
    return unseen


def unseen_pooled(contexts: Sequence[UnseenContext], like: Moments) -> Moments:
    """Moments of the pooled embeddings; as the moments `like` have them."""
    unseen = like.without_rows()
    for context in contexts:
        if context.full.pooled is not None and context.bare.pooled is not None:
            unseen.add_pair(context.full.pooled, context.bare.pooled)
    return unseen


def overshoot_for(unseen: Moments, edit: torch.Tensor, metric: torch.Tensor, concepts: int = 1) -> float:
    """The overshoot with which an edit goes far enough in unseen contexts, 0..LARGEST / concepts.

    Parameters
    ----------
    unseen
        Moments of `unseen_rows` or `unseen_pooled`.
    edit
        The edit (dim, dim) without overshoot.
    metric
        W^T W over the layers (dim, dim), see `measured`.
    concepts
        Number of concepts that the edit forgets. With many, what it does to everything else is as large as what it misses, and an
        overshoot enlarges both: ten things of the miniature at once left a third of the others with 0.4, and three quarters with none.
    """
    reached = unseen.reached(edit, metric)
    return min(LARGEST / concepts, max(0.0, SUFFICIENT / max(reached, 1e-6) - 1.0))
