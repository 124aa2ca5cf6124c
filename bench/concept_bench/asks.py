"""Prompts of a task on the miniature, with the concept and style that the judge should see in each picture.

No solve or training used these seeds and templates. The asks of a thing (object or identity): `target`, its name in
every style that it was drawn in; `synonym`, its synonym; `contexts`, its name in forms that neither the table nor the
templates of the pack have, every other one with a style; `others`, its neighbours and half of the other things, the
other half with the next seed. The asks of a style: `target`, eight subjects in it; `others`, subjects in the other
styles; `contexts`, subjects in it in the other forms; `synonym`, the style in the list's paraphrases, because styles
have no synonyms in the miniature. Generality of a style is therefore measured over wordings, not over names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from bench.concept_bench.concepts import BenchConcept, list_of, load_list
from bench.concept_bench.tasks import Task
from bench.world import Ask, others_ask
from fmn_core.concepts.templates import default_templates, fill_template
from mini_sd.concepts import CONCEPT_NAMES, CONCEPTS, STYLE_NAMES, drawn_styles, with_article

FIRST_SEED, SEED_STEP = 70_000, 1000
# Pictures of each of several concepts in other contexts: one without a style, one with.
CONTEXTS_OF_SEVERAL = 2
_AN = re.compile(r"\ban\b")


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
    contexts
        Pictures of a thing or a style in other contexts.
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
    contexts: int
    steps: int
    styles_of_several: int = 2
    costly: bool = True


SIZES = {
    "full": AskSize(per_style=2, stride=2, subjects=8, per_other_style=5, contexts=8, steps=8),
    "quick": AskSize(per_style=1, stride=4, subjects=4, per_other_style=3, contexts=4, steps=12),
    "tiny": AskSize(per_style=1, stride=17, subjects=2, per_other_style=1, contexts=2, steps=2, costly=False),
}


def asks_of(task: Task) -> dict[str, Ask]:
    """The asks `target`, `synonym`, `contexts` and `others` of a task.

    Raises
    ------
    ValueError
        On a name that is not in the list, on a style among several concepts, and on a prompt that a template of the pack
        gives, see check_held_out.
    """
    listed, size = load_list(list_of(task.model)), SIZES[task.ask]
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
    make = _style_asks if styles else _thing_asks
    asks = make(concepts, size, task.seed, first_seed)
    check_held_out([prompt for ask in asks.values() for prompt in ask.prompts], {c.group for c in concepts})
    return asks


def check_held_out(prompts: Iterable[str], groups: Iterable[str]) -> None:
    """Raises ValueError on a prompt that a default template of one of the groups gives with any name or synonym.

    Notes
    -----
    "a" and "an" count as the same word, because a template has one article for all phrases.
    """
    solved = frozenset().union(*(_solved_prompts(group) for group in groups))
    if known := sorted({p for p in prompts if _AN.sub("a", p) in solved}):
        raise ValueError(
            f"Expected prompts that no default template gives, got {'; '.join(known)}. Change the forms in miniature.json."
        )


@cache
def _solved_prompts(group: str) -> frozenset[str]:
    """Every default template of a group with every name, synonym and style of the miniature."""
    words = [*STYLE_NAMES, *(word for c in CONCEPTS for word in (c.name, *c.synonyms))]
    return frozenset(_AN.sub("a", fill_template(t, w)) for t in default_templates(group) for w in words)


def styles_in_templates(group: str) -> int:
    """Number of the miniature's style words that the default templates of a group contain; 0: all styles are held out."""
    words = {word for template in default_templates(group) for word in re.findall(r"\w+", template.lower())}
    return sum(style in words for style in STYLE_NAMES)


def _thing_asks(concepts: list[BenchConcept], size: AskSize, seed: int, first_seed: int) -> dict[str, Ask]:
    target, synonym, contexts, several = Ask(), Ask(), Ask(), len(concepts) > 1
    for n, concept in enumerate(concepts):
        drawn = drawn_styles(concept.name)
        styles = [drawn[(n + seed + k) % len(drawn)] for k in range(size.styles_of_several)] if several else drawn
        for s, style in enumerate(styles):
            for k in range(1 if several else size.per_style):
                _add_thing(target, concept, concept.name, style, 3 * s + k + seed, first_seed + k)
        for s, style in enumerate(styles[:1] if several else drawn):
            name = concept.synonyms[s % len(concept.synonyms)]
            _add_thing(synonym, concept, name, style, 3 * s + seed, first_seed + 100)
        count = min(CONTEXTS_OF_SEVERAL, size.contexts) if several else size.contexts
        _add_contexts(contexts, concept, count, n + seed, first_seed + 300)
    names = [c.name for c in concepts]
    other_things = [n for n in CONCEPT_NAMES if n not in names]
    neighbours = [] if several else [n for n in concepts[0].neighbours if n in other_things]
    kept = list(dict.fromkeys((*neighbours, *other_things[seed % size.stride :: size.stride])))
    solved = {t for c in concepts for t in default_templates(c.group)}
    others = others_ask(kept, 1, first_seed + 200, solved)
    return {"target": target, "synonym": synonym, "contexts": contexts, "others": others}


def _add_thing(ask: Ask, concept: BenchConcept, words: str, style: str, number: int, seed: int) -> None:
    """Appends a picture that calls the concept by `words`, in one of its prompts that no solve has used."""
    solved = default_templates(concept.group)
    forms = [f for f in concept.prompts if f.format(x="a {}", s=style) not in solved]
    ask.append(forms[number % len(forms)].format(x=with_article(words), s=style), seed, concept.name, style)


def _add_contexts(ask: Ask, concept: BenchConcept, count: int, start: int, seed: int) -> None:
    """Appends pictures of a thing in the list's contexts, which are in pairs: one without a style, one with."""
    drawn = drawn_styles(concept.name)
    for k in range(count):
        form, style = concept.contexts[(2 * start + k) % len(concept.contexts)], drawn[(start + k // 2) % len(drawn)]
        prompt = form.format(x=with_article(concept.name), s=style)
        ask.append(prompt, seed + k, concept.name, style if "{s}" in form else "")


def _style_asks(concepts: list[BenchConcept], size: AskSize, seed: int, first_seed: int) -> dict[str, Ask]:
    [concept], half, others = concepts, max(1, size.subjects // 2), Ask()
    target = _subjects_ask(concept.prompts, concept, concept.name, size.subjects, seed * size.subjects, first_seed)
    synonym = _subjects_ask(
        concept.paraphrases, concept, concept.name, half, (seed + 1) * size.subjects, first_seed + 100
    )
    start = (seed + 2) * size.subjects
    contexts = _subjects_ask(concept.contexts, concept, concept.name, size.contexts, start, first_seed + 300)
    count = size.per_other_style
    for n, style in enumerate(s for s in STYLE_NAMES if s != concept.name):
        style_seed = first_seed + 200 + 20 * n
        others.extend(_subjects_ask(concept.prompts, concept, style, count, seed + n * count, style_seed))
    return {"target": target, "synonym": synonym, "contexts": contexts, "others": others}


def _subjects_ask(forms: tuple[str, ...], concept: BenchConcept, style: str, count: int, start: int, seed: int) -> Ask:
    """Pictures of `count` subjects in a style, in turn from number `start` on."""
    ask = Ask()
    for k in range(count):
        thing = concept.subjects[(start + k) % len(concept.subjects)]
        ask.append(forms[k % len(forms)].format(x=with_article(thing), s=style), seed + k, thing, style)
    return ask
