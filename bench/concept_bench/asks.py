"""Prompts of a task on the miniature, with the concept and style that the judge should see in each picture.

No solve or training used these seeds and templates. The asks of a thing (object or identity): `target`, its name in
every style that it was drawn in; `synonym`, its synonym; `others`, its neighbours and half of the other things, the
other half with the next seed. The asks of a style: `target`, eight subjects in it; `others`, subjects in the other
styles; `synonym`, the style in the list's paraphrases, because styles have no synonyms in the miniature. Generality of
a style is therefore measured over wordings, not over names.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.concept_bench.concepts import BenchConcept, load_list
from bench.concept_bench.tasks import Task
from bench.world import Ask, others_ask
from fmn_core.concepts.templates import default_templates
from mini_sd.concepts import CONCEPT_NAMES, STYLE_NAMES, drawn_styles, with_article

FIRST_SEED, SEED_STEP = 70_000, 1000


@dataclass(frozen=True)
class AskSize:
    """Numbers of pictures and sampling steps of a task.

    Parameters
    ----------
    per_style
        Target pictures of a thing in each style.
    stride
        Of the other things, one in `stride` is drawn.
    subjects
        Target pictures of a style; its paraphrases have half as many.
    per_other_style
        Pictures of each other style.
    steps
        Sampling steps.
    styles_of_several
        Styles for each of several concepts that are forgotten at once.
    costly
        Whether attacks and the M-Score are measured.
    """

    per_style: int
    stride: int
    subjects: int
    per_other_style: int
    steps: int
    styles_of_several: int = 2
    costly: bool = True


SIZES = {
    "full": AskSize(per_style=2, stride=2, subjects=8, per_other_style=5, steps=8),
    "quick": AskSize(per_style=1, stride=4, subjects=4, per_other_style=3, steps=12),
    "tiny": AskSize(per_style=1, stride=17, subjects=2, per_other_style=1, steps=2, costly=False),
}


def asks_of(task: Task) -> dict[str, Ask]:
    """The asks `target`, `synonym` and `others` of a task.

    Raises
    ------
    ValueError
        On a name that is not in the list, and on a style among several concepts.
    """
    listed, size = load_list(task.model), SIZES[task.ask]
    unknown = [name for name in task.concepts if name not in listed]
    if unknown or not task.concepts:
        raise ValueError(
            f"Expected concepts of the list {task.model}: {', '.join(listed)}; got {', '.join(unknown) or 'none'}."
        )
    concepts, first_seed = [listed[name] for name in task.concepts], FIRST_SEED + SEED_STEP * task.seed
    styles = sum(c.group == "style" for c in concepts)
    if styles and len(concepts) > 1:
        raise ValueError(
            f"Expected one style, or things alone, got {', '.join(task.concepts)}. Give a style a task of its own."
        )
    if styles:
        return _style_asks(concepts[0], size, task.seed, first_seed)
    return _thing_asks(concepts, size, task.seed, first_seed)


def _thing_asks(concepts: list[BenchConcept], size: AskSize, seed: int, first_seed: int) -> dict[str, Ask]:
    target, synonym, several = Ask(), Ask(), len(concepts) > 1
    for n, concept in enumerate(concepts):
        drawn = drawn_styles(concept.name)
        styles = [drawn[(n + seed + k) % len(drawn)] for k in range(size.styles_of_several)] if several else drawn
        for s, style in enumerate(styles):
            for k in range(1 if several else size.per_style):
                _add_thing(target, concept, concept.name, style, 3 * s + k + seed, first_seed + k)
        for s, style in enumerate(styles[:1] if several else drawn):
            name = concept.synonyms[s % len(concept.synonyms)]
            _add_thing(synonym, concept, name, style, 3 * s + seed, first_seed + 100)
    names = [c.name for c in concepts]
    other_things = [n for n in CONCEPT_NAMES if n not in names]
    neighbours = [] if several else [n for n in concepts[0].neighbours if n in other_things]
    kept = list(dict.fromkeys((*neighbours, *other_things[seed % size.stride :: size.stride])))
    return {"target": target, "synonym": synonym, "others": others_ask(kept, 1, first_seed + 200)}


def _add_thing(ask: Ask, concept: BenchConcept, words: str, style: str, number: int, seed: int) -> None:
    """Appends a picture that calls the concept by `words`, in one of its prompts that no solve has used."""
    solved = default_templates(concept.group)
    forms = [f for f in concept.prompts if f.format(x="a {}", s=style) not in solved]
    ask.append(forms[number % len(forms)].format(x=with_article(words), s=style), seed, concept.name, style)


def _style_asks(concept: BenchConcept, size: AskSize, seed: int, first_seed: int) -> dict[str, Ask]:
    half, others = max(1, size.subjects // 2), Ask()
    target = _subjects_ask(concept.prompts, concept, concept.name, size.subjects, seed * size.subjects, first_seed)
    synonym = _subjects_ask(
        concept.paraphrases, concept, concept.name, half, (seed + 1) * size.subjects, first_seed + 100
    )
    count = size.per_other_style
    for n, style in enumerate(s for s in STYLE_NAMES if s != concept.name):
        style_seed = first_seed + 200 + 20 * n
        others.extend(_subjects_ask(concept.prompts, concept, style, count, seed + n * count, style_seed))
    return {"target": target, "synonym": synonym, "others": others}


def _subjects_ask(forms: tuple[str, ...], concept: BenchConcept, style: str, count: int, start: int, seed: int) -> Ask:
    """Pictures of `count` subjects in a style, in turn from number `start` on."""
    ask = Ask()
    for k in range(count):
        thing = concept.subjects[(start + k) % len(concept.subjects)]
        ask.append(forms[k % len(forms)].format(x=with_article(thing), s=style), seed + k, thing, style)
    return ask
