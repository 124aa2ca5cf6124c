"""The miniature in this process, its judge, and the evaluation of one concept."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.judged import drift, share
from fmn_core.concepts.templates import default_templates
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, STYLED_TEMPLATES, drawn_styles, with_article
from mini_sd.generate import GUIDANCE, generate
from mini_sd.judge import classify, load_judge
from tools import comfy_host

STEPS = 12  # of sampling, where no other number is given, to save time; before and after are sampled alike


@dataclass
class Ask:
    """Prompts and seeds to sample, and the concept and style that the judge should see in each picture."""

    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    concepts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add(self, words: str, concept: str, style: str, template: int, seed: int) -> None:
        self.prompts.append(
            STYLED_TEMPLATES[template % len(STYLED_TEMPLATES)].format(x=with_article(words) if words else "", s=style)
        )
        self.seeds.append(seed)
        self.concepts.append(concept)
        self.styles.append(style)


def target_ask(concept: str, words: str, solved: set[str], per_style: int, first_seed: int) -> Ask:
    """The concept under `words`, in every style it was drawn in, over the templates that no solve has used."""
    ask = Ask()
    for s, style in enumerate(drawn_styles(concept)):
        forms = [t for t, form in enumerate(STYLED_TEMPLATES) if form.format(x="a {}", s=style) not in solved]
        for k in range(per_style):
            ask.add(words, concept, style, forms[(3 * s + k) % len(forms)], first_seed + k)
    return ask


def others_ask(concepts: list[str], per_concept: int, first_seed: int) -> Ask:
    """The other concepts, styles and templates in turn."""
    ask = Ask()
    for c, concept in enumerate(concepts):
        styles = drawn_styles(concept)
        for k in range(per_concept):
            ask.add(concept, concept, styles[(c + k) % len(styles)], c + 3 * k, first_seed + k)
    return ask


class Pack:
    """This pack, imported as the host would, and a MODEL, CLIP and VAE for it."""

    def __init__(self, load: Callable[[Any], tuple[Any, Any, Any]]) -> None:
        """`load(host)` gives MODEL, CLIP and VAE."""
        self.pack = comfy_host.load_pack()
        self.host = self.node("host")
        self.adapter_class = self.node("adapter.model").ComfyModel
        with torch.inference_mode():
            self.model, self.clip, self.vae = load(self.host)

    def adapter(self) -> Any:
        return self.adapter_class(self.model, self.clip)

    def node(self, module: str) -> Any:
        """A module of the pack's nodes, such as patches.gated_patch."""
        return importlib.import_module(f"{comfy_host.PACK_NAME}.nodes.{module}")


class World(Pack):
    """The miniature and its judge; steps and guidance of sampling."""

    def __init__(self, steps: int = STEPS, guidance: float = GUIDANCE) -> None:
        super().__init__(lambda host: host.load_miniature())
        self.steps, self.guidance = steps, guidance
        self.judge = load_judge()
        self._images: dict[tuple, torch.Tensor] = {}

    def sample(self, ask: Ask, model: Any = None, extra: Any = None) -> torch.Tensor:
        """Pictures of an ask; those of the untouched model are made once."""
        setting = {"steps": self.steps, "guidance": self.guidance}
        if model is not None:
            return generate(model, self.clip, self.vae, ask.prompts, ask.seeds, extra=extra, **setting)
        key = (self.guidance, *zip(ask.prompts, ask.seeds))
        if key not in self._images:
            self._images[key] = generate(self.model, self.clip, self.vae, ask.prompts, ask.seeds, **setting)
        return self._images[key]

    def draw(self, prompts: list[str], seeds: list[int], conditions: Any = None) -> torch.Tensor:
        """Pictures of the untouched model with conditionings that `conditions` makes, see mini_sd.generate."""
        setting = {"steps": self.steps, "guidance": self.guidance}
        return generate(self.model, self.clip, self.vae, prompts, seeds, conditions=conditions, **setting)

    def seen(self, images: torch.Tensor) -> tuple[list[str], list[str]]:
        return classify(self.judge, images)


@dataclass
class Evaluation:
    """The pictures asked for one concept, before anything is forgotten."""

    world: World
    concept: str
    kept: list[str]  # concepts whose keeping is measured
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
        """Figures of a patched model; `sampler(ask)` replaces sampling where a method works at inference."""
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
        """The share that some of the kept concepts lost, from the pictures of the last measurement."""
        changes = [(name == before) - (name == after) for name, before, after in self.kept_seen if name in concepts]
        return round(sum(changes) / len(changes), 4)

    def fallback_rate(self) -> float:
        """How often the untouched model draws the concept when the phrase is left out of the prompt: the floor."""
        images = self.world.sample(self.nothing)
        return share(self.world.seen(images)[0], self.nothing.concepts)


def other_concepts(concept: str) -> list[str]:
    return [n for n in CONCEPT_NAMES if n != concept]
