"""Prompts of a task on a checkpoint, and the labels that its judge chooses from.

The asks of a thing (object or identity): `target`, its name in its group's prompts in turn; `synonym`, half as many
pictures with its synonyms; `others`, its neighbours and then the other names of its group. The asks of a style:
`target`, its subjects in turn; `synonym`, half as many pictures that call the painter by a work, in the list's
paraphrases; `others`, subjects in the neighbouring styles and then in the other styles of the list. Each other name has
a fifth of the concept's pictures, and so has each of several concepts that are forgotten at once.
"""

from __future__ import annotations

from bench.concept_bench.asks import FIRST_SEED, SEED_STEP
from bench.concept_bench.checkpoint_names import concepts_named, names_to_keep
from bench.concept_bench.concepts import BenchConcept
from bench.concept_bench.tasks import Task
from bench.world import Ask

PHOTOGRAPH = "a photograph"


def listed_asks(task: Task) -> dict[str, Ask]:
    """The asks `target`, `synonym` and `others`; the style of a thing's pictures is ""."""
    concepts, first_seed = concepts_named(task.concepts), FIRST_SEED + SEED_STEP * task.seed
    asks = {"target": Ask(), "synonym": Ask(), "others": Ask()}
    assert task.checkpoint is not None
    count, few = task.checkpoint.pictures, max(1, task.checkpoint.pictures // 5)
    several = len(concepts) > 1
    for n, concept in enumerate(concepts):
        start = n + task.seed
        _add(asks["target"], concept, (concept.name,), few if several else count, start, first_seed)
        _add(asks["synonym"], concept, concept.synonyms, 1 if several else max(1, count // 2), start, first_seed + 100)
    for n, name in enumerate(names_to_keep(task.concepts)):
        # The prompts are those of the first concept's group.
        _add(asks["others"], concepts[0], (name,), few, n + task.seed, first_seed + 200, name)
    return asks


def _add(
    ask: Ask, concept: BenchConcept, words: tuple[str, ...], count: int, start: int, seed: int, name: str = ""
) -> None:
    """Appends `count` pictures of `name`, or the concept; words, prompts and subjects take turns."""
    style, name = concept.group == "style", name or concept.name
    forms = concept.paraphrases if style and words == concept.synonyms else concept.prompts
    for k in range(count):
        phrase, form = words[k % len(words)], forms[(start + k) % len(forms)]
        subject = concept.subjects[(start + k) % len(concept.subjects)] if style else phrase
        ask.append(form.format(x=subject, s=phrase), seed + k, subject if style else name, name if style else "")


def thing_labels(task: Task) -> list[str]:
    """Labels of things: the concepts, their neighbours and the rest of their groups; for a style its subjects."""
    [first, *_] = concepts_named(task.concepts)
    return list(first.subjects) if first.group == "style" else [*task.concepts, *names_to_keep(task.concepts)]


def style_labels(task: Task) -> dict[str, str]:
    """Styles by their labels' texts: the style, its neighbours, the other styles of the list, and a photograph."""
    styles = [*task.concepts, *names_to_keep(task.concepts)]
    return {f"a painting by {name}": name for name in styles} | {PHOTOGRAPH: PHOTOGRAPH}
