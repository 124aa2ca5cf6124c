"""The prompts of a task on a checkpoint, and the labels that its judge chooses from.

A thing (object or identity): `target` its name in its group's prompts in turn, `synonym` half as many with its synonyms, `others` its neighbours,
then the other names of its group. A style: `target` its subjects in turn, `synonym` half as many that call the painter by a work, in the
list's other wordings, `others` subjects in the neighbouring styles, then in the other styles of the list. Of each other name a fifth as many
pictures as of the concept, and as many of each of several concepts forgotten at once.
"""

from __future__ import annotations

from bench.concept_bench.asks import FIRST_SEED, SEED_STEP
from bench.concept_bench.checkpoint_names import concepts_named, others
from bench.concept_bench.concepts import BenchConcept
from bench.concept_bench.tasks import Task
from bench.world import Ask

PHOTOGRAPH = "a photograph"


def listed_asks(task: Task) -> dict[str, Ask]:
    """The asks `target`, `synonym` and `others`; things have no styles, so theirs are "". Raises ValueError as concepts_named does."""
    concepts, first = concepts_named(task.concepts), FIRST_SEED + SEED_STEP * task.seed
    asks = {"target": Ask(), "synonym": Ask(), "others": Ask()}
    assert task.checkpoint is not None
    count, few = task.checkpoint.pictures, max(1, task.checkpoint.pictures // 5)
    several = len(concepts) > 1
    for n, concept in enumerate(concepts):
        start = n + task.seed
        _add(asks["target"], concept, (concept.name,), few if several else count, start, first)
        _add(asks["synonym"], concept, concept.synonyms, 1 if several else max(1, count // 2), start, first + 100)
    for n, name in enumerate(others(task.concepts)):
        # Pictures of others go by the prompts of the first concept's group.
        _add(asks["others"], concepts[0], (name,), few, n + task.seed, first + 200, name)
    return asks


def _add(
    ask: Ask, concept: BenchConcept, words: tuple[str, ...], count: int, start: int, seed: int, name: str = ""
) -> None:
    """`count` pictures that call `name`, or the concept, by `words` in turn; prompts and subjects from number `start` on."""
    style, name = concept.group == "style", name or concept.name
    forms = concept.paraphrases if style and words == concept.synonyms else concept.prompts
    for k in range(count):
        said, form = words[k % len(words)], forms[(start + k) % len(forms)]
        subject = concept.subjects[(start + k) % len(concept.subjects)] if style else said
        ask.prompts.append(form.format(x=subject, s=said))
        ask.seeds.append(seed + k)
        ask.concepts.append(subject if style else name)
        ask.styles.append(name if style else "")


def thing_labels(task: Task) -> list[str]:
    """What a picture may show: the concepts, their neighbours and the other names of their groups; of a style its subjects."""
    [first, *_] = concepts_named(task.concepts)
    return list(first.subjects) if first.group == "style" else [*task.concepts, *others(task.concepts)]


def style_labels(task: Task) -> dict[str, str]:
    """Of a style the label's text -> the style: the style, its neighbours, the other styles of the list, and a photograph."""
    styles = [*task.concepts, *others(task.concepts)]
    return {f"a painting by {name}": name for name in styles} | {PHOTOGRAPH: PHOTOGRAPH}
