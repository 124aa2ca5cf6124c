"""The miniature in this process with its judge, the prompts that are sampled, and the evaluation of one concept."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.picture_figures import drift, share
from fmn_core.concepts.templates import default_templates
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, STYLED_TEMPLATES, drawn_styles, with_article
from mini_sd.generate import GUIDANCE, generate
from mini_sd.judge import classify, load_judge
from tools import comfy_host

SAMPLING_STEPS = 12  # few, to save time; pictures before and after forgetting are sampled alike


@dataclass
class Ask:
    """Prompts and seeds to sample, and the concept and style that the judge should see in each picture."""

    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    concepts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add(self, words: str, concept: str, style: str, template: int, seed: int) -> None:
        """Appends a picture of `words` in a style, in one of the miniature's styled templates by its number."""
        form = STYLED_TEMPLATES[template % len(STYLED_TEMPLATES)]
        self.append(form.format(x=with_article(words) if words else "", s=style), seed, concept, style)

    def append(self, prompt: str, seed: int, concept: str, style: str) -> None:
        """Appends one picture."""
        self.prompts.append(prompt)
        self.seeds.append(seed)
        self.concepts.append(concept)
        self.styles.append(style)

    def extend(self, other: Ask) -> None:
        """Appends all pictures of another ask."""
        self.prompts += other.prompts
        self.seeds += other.seeds
        self.concepts += other.concepts
        self.styles += other.styles

    def every(self, step: int) -> Ask:
        """The pictures 0, step, 2 * step and so on."""
        return Ask(self.prompts[::step], self.seeds[::step], self.concepts[::step], self.styles[::step])


def target_ask(concept: str, words: str, solved: set[str], per_style: int, first_seed: int) -> Ask:
    """Pictures that call a concept by `words`, in each of its styles, with templates that no solve has used."""
    ask = Ask()
    for s, style in enumerate(drawn_styles(concept)):
        forms = _unsolved_forms(style, solved)
        for k in range(per_style):
            ask.add(words, concept, style, forms[(3 * s + k) % len(forms)], first_seed + k)
    return ask


def others_ask(concepts: list[str], per_concept: int, first_seed: int, solved: Collection[str] = frozenset()) -> Ask:
    """Pictures of the other concepts, with styles and templates in turn, without the templates in `solved`."""
    ask = Ask()
    for c, concept in enumerate(concepts):
        styles = drawn_styles(concept)
        for k in range(per_concept):
            style = styles[(c + k) % len(styles)]
            forms = _unsolved_forms(style, solved)
            ask.add(concept, concept, style, forms[(c + 3 * k) % len(forms)], first_seed + k)
    return ask


def _unsolved_forms(style: str, solved: Collection[str]) -> list[int]:
    """Numbers of the styled templates that are not in `solved` once the style is filled in."""
    return [t for t, form in enumerate(STYLED_TEMPLATES) if form.format(x="a {}", s=style) not in solved]


class Pack:
    """This pack, imported as the host imports it, and a MODEL, CLIP and VAE for it."""

    def __init__(self, load: Callable[[Any], tuple[Any, Any, Any]]) -> None:
        """Loads MODEL, CLIP and VAE with `load(host)`."""
        self.pack = comfy_host.load_pack()
        self.host = self.node("host")
        self.adapter_class = self.node("adapter.model").ComfyModel
        with torch.inference_mode():
            self.model, self.clip, self.vae = load(self.host)

    def adapter(self) -> Any:
        """A new ComfyModel of MODEL and CLIP."""
        return self.adapter_class(self.model, self.clip)

    def node(self, module: str) -> Any:
        """A module of the pack's nodes, such as patches.gated_patch."""
        return importlib.import_module(f"{comfy_host.PACK_NAME}.nodes.{module}")


class World(Pack):
    """The miniature and its judge, with the steps and guidance that pictures are sampled with."""

    def __init__(self, steps: int = SAMPLING_STEPS, guidance: float = GUIDANCE) -> None:
        super().__init__(lambda host: host.load_miniature())
        self.steps, self.guidance = steps, guidance
        self.judge = load_judge()
        self._images: dict[tuple, torch.Tensor] = {}

    def sample(self, ask: Ask, model: Any = None, extra: Any = None) -> torch.Tensor:
        """Pictures (B, H, W, 3) of an ask; those of the untouched model are sampled once and kept."""
        setting = {"steps": self.steps, "guidance": self.guidance}
        if model is not None:
            return generate(model, self.clip, self.vae, ask.prompts, ask.seeds, extra=extra, **setting)
        key = (self.guidance, *zip(ask.prompts, ask.seeds))
        if key not in self._images:
            self._images[key] = generate(self.model, self.clip, self.vae, ask.prompts, ask.seeds, **setting)
        return self._images[key]

    def draw(self, prompts: list[str], seeds: list[int], conditions: Any = None) -> torch.Tensor:
        """Pictures of the untouched model with conditionings that `conditions` changes, see mini_sd.generate."""
        setting = {"steps": self.steps, "guidance": self.guidance}
        return generate(self.model, self.clip, self.vae, prompts, seeds, conditions=conditions, **setting)

    def seen(self, images: torch.Tensor) -> tuple[list[str], list[str]]:
        """The concept and the style that the judge sees in each picture."""
        return classify(self.judge, images)


@dataclass
class Evaluation:
    """Measures how far a concept is forgotten and how far others are kept.

    Parameters
    ----------
    kept
        Concepts whose keeping is measured.
    quick
        Half of the pictures.
    seed
        First seed of the pictures.
    per_other
        Pictures of each kept concept.
    """

    world: World
    concept: str
    kept: list[str]
    quick: bool = False
    seed: int = 1000
    per_other: int = 1

    def __post_init__(self) -> None:
        n = 2 if self.quick else 4
        kind = BY_NAME[self.concept].kind
        solved = set(default_templates(kind))
        self.target = target_ask(self.concept, self.concept, solved, n, self.seed)
        synonym = BY_NAME[self.concept].synonyms[0]
        self.synonym = target_ask(self.concept, synonym, solved, max(1, n // 3), self.seed + 100)
        self.nothing = target_ask(self.concept, "", solved, max(1, n // 2), self.seed)
        self.others = others_ask(self.kept, self.per_other, self.seed + 200)

    def measure(self, model: Any = None, sampler: Any = None) -> dict[str, float]:
        """Figures of a patched model; `sampler(ask)` draws the pictures of a method that works at inference."""
        render = sampler or (lambda ask: self.world.sample(ask, model))
        target = render(self.target)
        self.first_picture = target[:1]
        seen, styles = self.world.seen(target)
        figures = {
            "forget_before": share(self.world.seen(self.world.sample(self.target))[0], self.target.concepts),
            "forget_after": share(seen, self.target.concepts),
            "synonym_after": share(self.world.seen(render(self.synonym))[0], self.synonym.concepts),
            "style_after": share(styles, self.target.styles),
        }
        return figures | (self._keeping(render(self.others)) if self.kept else {})

    def _keeping(self, others: torch.Tensor) -> dict[str, float]:
        before = self.world.sample(self.others)
        seen_before, seen = self.world.seen(before)[0], self.world.seen(others)[0]
        self.kept_seen = list(zip(self.others.concepts, seen_before, seen))
        return {"keep_drop": self.drop_of(self.kept), "drift": drift(before, others)}

    def drop_of(self, concepts: list[str]) -> float:
        """Share that some of the kept concepts lost, from the pictures of the last measurement."""
        changes = [(name == before) - (name == after) for name, before, after in self.kept_seen if name in concepts]
        return round(sum(changes) / len(changes), 4)

    def fallback_rate(self) -> float:
        """Share of pictures in which the untouched model draws the concept without its phrase: the floor."""
        images = self.world.sample(self.nothing)
        return share(self.world.seen(images)[0], self.nothing.concepts)


def other_concepts(concept: str) -> list[str]:
    """All concepts of the miniature but one."""
    return [n for n in CONCEPT_NAMES if n != concept]
