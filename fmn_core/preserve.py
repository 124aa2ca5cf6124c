"""What is to be kept: preserve prompts, and names that go through the concept's templates."""

from __future__ import annotations

from .concept import Concept
from .model import ForgetModel
from .templates import everyday_captions

# A preserve line of so many words is a name ("horse", "green apple"), a longer one is a prompt.
NAME_WORDS = 3
TEMPLATES_PER_NAME = 8


def preserve_groups(
    model: ForgetModel, concepts: list[Concept], lines: list[str], use_everyday_captions: bool
) -> list[list[str]]:
    """Prompts to preserve, in groups that belong together: a prompt alone, or a name in several of the templates.

    Lines and captions that name a concept to be forgotten are dropped: they would ask for both. The empty prompt is
    always kept.
    """
    templates = [t for c in concepts for t in c.templates]
    chosen = templates[:: max(1, len(templates) // TEMPLATES_PER_NAME)]
    captions = everyday_captions() if use_everyday_captions else ()
    groups = [[""]]
    for line in without_concepts(model, concepts, [*lines, *captions]):
        is_name = line in lines and len(line.split()) <= NAME_WORDS
        groups.append([line, *(t.format(line) for t in chosen)] if is_name else [line])
    return groups


def without_concepts(model: ForgetModel, concepts: list[Concept], prompts: list[str]) -> list[str]:
    """Drops prompts that hold a phrase to be forgotten, and repeats."""
    forgotten = [ids for c in concepts for p in c.phrases for ids in model.phrase_tokens(p).values()]

    def names_one(prompt: str) -> bool:
        ids = next(iter(model.phrase_tokens(prompt).values()), [])
        return any(phrase == ids[i : i + len(phrase)] for phrase in forgotten for i in range(len(ids)))

    return [p for p in dict.fromkeys(prompts) if not names_one(p)]
