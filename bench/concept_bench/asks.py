"""The prompts of a task on the miniature, and what the judge should see in each picture. No solve or training used these seeds and templates.

A thing (object or identity): `target` its name in every style it was drawn in, `synonym` its synonym, `others` half of the other
things, turn about with the seed, and its neighbours. A style: `target` eight subjects in it, `others` subjects in the other styles.
Styles have no synonyms in the miniature; their `synonym` pictures, which generality is measured on, ask for the style in other
words (the list's paraphrases), so they tell how far forgetting carries over wordings, not over names.
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
class Size:
    """How much of everything: pictures, sampling steps, and whether the costly scores are taken.

    `per_style`: target pictures in each style; `stride`: every so manieth other concept; `subjects`: pictures of a style, half as many
    of its paraphrases, and as many of every other style as `beside`. `several_styles`: styles for each of several concepts.
    """

    per_style: int
    stride: int
    subjects: int
    beside: int
    steps: int
    several_styles: int = 2
    costly: bool = True


SIZES = {
    "full": Size(per_style=2, stride=2, subjects=8, beside=5, steps=8),
    "quick": Size(per_style=1, stride=4, subjects=4, beside=3, steps=12),
    "tiny": Size(per_style=1, stride=17, subjects=2, beside=1, steps=2, costly=False),
}


def asks_of(task: Task) -> dict[str, Ask]:
    """The asks `target`, `synonym` and `others` of a task. Raises ValueError on names that the list does not have together."""
    listed, size = load_list(task.model), SIZES[task.ask]
    unknown = [name for name in task.concepts if name not in listed]
    if unknown or not task.concepts:
        raise ValueError(
            f"Expected concepts of the list {task.model}: {', '.join(listed)}; got {', '.join(unknown) or 'none'}."
        )
    concepts, first = [listed[name] for name in task.concepts], FIRST_SEED + SEED_STEP * task.seed
    styles = sum(c.group == "style" for c in concepts)
    if styles and len(concepts) > 1:
        raise ValueError(
            f"Expected one style, or things alone, got {', '.join(task.concepts)}. Give a style a task of its own."
        )
    return _style_asks(concepts[0], size, task.seed, first) if styles else _thing_asks(concepts, size, task.seed, first)


def _thing_asks(concepts: list[BenchConcept], size: Size, seed: int, first: int) -> dict[str, Ask]:
    target, synonym, several = Ask(), Ask(), len(concepts) > 1
    for n, concept in enumerate(concepts):
        drawn = drawn_styles(concept.name)
        chosen = [drawn[(n + seed + k) % len(drawn)] for k in range(size.several_styles)] if several else drawn
        for s, style in enumerate(chosen):
            for k in range(1 if several else size.per_style):
                _thing(target, concept, concept.name, style, 3 * s + k + seed, first + k)
        for s, style in enumerate(chosen[:1] if several else drawn):
            _thing(synonym, concept, concept.synonyms[s % len(concept.synonyms)], style, 3 * s + seed, first + 100)
    names = [c.name for c in concepts]
    free = [n for n in CONCEPT_NAMES if n not in names]
    beside = [] if several else [n for n in concepts[0].neighbours if n in free]
    kept = list(dict.fromkeys((*beside, *free[seed % size.stride :: size.stride])))
    return {"target": target, "synonym": synonym, "others": others_ask(kept, 1, first + 200)}


def _thing(ask: Ask, concept: BenchConcept, words: str, style: str, number: int, seed: int) -> None:
    solved = default_templates(concept.group)
    forms = [f for f in concept.prompts if f.format(x="a {}", s=style) not in solved]
    _append(ask, forms[number % len(forms)].format(x=with_article(words), s=style), concept.name, style, seed)


def _style_asks(concept: BenchConcept, size: Size, seed: int, first: int) -> dict[str, Ask]:
    half, others = max(1, size.subjects // 2), Ask()
    target = _styled(concept.prompts, concept, concept.name, size.subjects, seed * size.subjects, first)
    synonym = _styled(concept.paraphrases, concept, concept.name, half, (seed + 1) * size.subjects, first + 100)
    for n, style in enumerate(s for s in STYLE_NAMES if s != concept.name):
        more = _styled(concept.prompts, concept, style, size.beside, seed + n * size.beside, first + 200 + 20 * n)
        for mine, its in ((getattr(others, k), getattr(more, k)) for k in ("prompts", "seeds", "concepts", "styles")):
            mine.extend(its)
    return {"target": target, "synonym": synonym, "others": others}


def _styled(forms: tuple[str, ...], concept: BenchConcept, style: str, count: int, start: int, seed: int) -> Ask:
    ask = Ask()
    for k in range(count):
        thing = concept.subjects[(start + k) % len(concept.subjects)]
        _append(ask, forms[k % len(forms)].format(x=with_article(thing), s=style), thing, style, seed + k)
    return ask


def _append(ask: Ask, prompt: str, concept: str, style: str, seed: int) -> None:
    ask.prompts.append(prompt)
    ask.seeds.append(seed)
    ask.concepts.append(concept)
    ask.styles.append(style)
