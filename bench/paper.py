"""The paper's figures and its Table 1 on a miniature: python -m bench.paper [--model unet|flux] [--quick]

Zeroed attention while sampling; several identities and a style forgotten by re-steering (the paper's Algorithm 1) and in closed form; a
word corrected; M-Score and CLIP score before and after. One page with pictures: bench/results/paper_<model>.md and .png (not
with --quick, which takes one concept and few pictures).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.picture_pages import grid_page
from bench.results_page import RESULTS, machine, markdown_table
from bench.scene_world import SceneWorld
from bench.world import World
from fmn_core.closed_form.correction import correct_concept
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.concepts.concept import Concept, make_concept
from fmn_core.concepts.templates import default_templates
from fmn_core.scores.clip_score import clip_score
from fmn_core.scores.m_score import m_score, pooled_features
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.inversion import InversionSettings, invert_concept
from fmn_core.training.references import References
from mini_sd.concepts import BY_NAME
from mini_sd.generate import generate

IDENTITIES, STYLE, SUBJECTS = ("santa claus", "wizard", "clown", "robot"), "noto", ("cat", "guitar", "pizza", "house")
WORD, DOMINANT, OTHER = "apple", "crimson apple", "green apple"
OTHERS = ("horse", "guitar", "house", "banana")
PICTURES, M_TEMPLATES = 6, 3
INVERSION = InversionSettings(tokens=2, start="noise", steps=60, warmup=12, learning_rate=2e-2, batch=4)


@dataclass
class Page:
    """What the page shows: rows of pictures with their labels, and rows of the table."""

    pictures: list[torch.Tensor] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, label: str, pictures: torch.Tensor) -> None:
        """Appends a row of pictures (PICTURES, H, W, 3)."""
        self.pictures.append(pictures)
        self.labels.append(label)


class Miniature:
    """A miniature with the forms of its prompts, and pictures of any of its patched models."""

    def __init__(self, name: str, count: int):
        self.name, self.count = name, count
        self.world: Any = World() if name == "unet" else SceneWorld(name)
        self.adapter = self.world.node("adapter.transformer").trained_model(self.world.model, self.world.clip)
        self.image_text = self.world.host.load_miniature_image_text()
        ground = " on a white ground" if name == "flux" else ""
        self.forms = (
            f"a picture of a {{x}}{ground} in {{s}} style",
            f"a drawing of a {{x}}{ground} in the style of {{s}}",
        )

    def prompts(self, words: str, style: str = "twemoji") -> list[str]:
        """Prompts of something, in both forms in turn."""
        return [self.forms[n % 2].format(x=words, s=style) for n in range(self.count)]

    def pictures(self, prompts: list[str], model: Any = None, seed: int = 100) -> torch.Tensor:
        """Pictures of prompts, with seeds from `seed` on."""
        seeds, world = list(range(seed, seed + len(prompts))), self.world
        return generate(model or world.model, world.clip, world.vae, prompts, seeds, world.steps, world.guidance)

    def concept(self, name: str, kind: str = "") -> Concept:
        """A concept with the default templates of its kind."""
        return make_concept(self.adapter, name, kind or BY_NAME[name].kind)

    def closed_form(self, concepts: list[Concept]) -> Any:
        """The model without some concepts, by the closed form at its defaults."""
        with torch.inference_mode(False):
            return self.patched(forget_closed_form(self.adapter, concepts))

    def re_steered(self, concept: Concept) -> Any:
        """The model without a concept, by attention re-steering at its defaults."""
        settings = GradientSettings(visual_weight=0.0)
        with torch.inference_mode(False), self.adapter.ready_for_gradients():
            latents = References(torch.zeros(1, *self.adapter.latent_shape()))
            return self.patched(forget_by_gradient(self.adapter, [concept], [latents], settings))

    def patched(self, patch: Any) -> Any:
        """The model with a patch."""
        return self.world.host.apply_patch(self.world.model, patch.as_stored(), 1.0)[0]


def zeroed(mini: Miniature, page: Page) -> None:
    """Attention to a phrase taken while sampling, with its end tokens or without."""
    node, prompts = mini.world.node("attention.zero_attention").ZeroConceptAttention, mini.prompts(IDENTITIES[0])
    page.add(f"{IDENTITIES[0]}, untouched", mini.pictures(prompts))
    for end_token in ("none", "first", "all"):
        with torch.inference_mode():
            [model] = node.execute(
                mini.world.model,
                mini.world.clip,
                IDENTITIES[0],
                1.0,
                end_token,
                "all",
                0.0,
                1.0,
                False,
                "\n".join(set(prompts)),
            ).args
        page.add(f"attention to it zeroed, end tokens: {end_token}", mini.pictures(prompts, model))


def forgotten(mini: Miniature, page: Page, names: Iterable[str]) -> None:
    """Each identity by re-steering, and all of them at once in closed form, with figures of the table."""
    names = list(names)
    models = {"re-steering": [mini.re_steered(mini.concept(n)) for n in names]}
    models["closed form, all at once"] = [mini.closed_form([mini.concept(n) for n in names])] * len(names)
    others = [mini.prompts(name)[0] for name in OTHERS]
    for n, name in enumerate(names):
        prompts, before = mini.prompts(name), mini.pictures(mini.prompts(name))
        page.add(name, before)
        for method, of_names in models.items():
            after = mini.pictures(prompts, of_names[n])
            page.add(f"{name}, {method}", after)
            page.rows.append(_scores(mini, name, method, prompts, (before, after), others, of_names[n]))


def _scores(
    mini: Miniature,
    name: str,
    method: str,
    prompts: list[str],
    pictures: tuple[torch.Tensor, torch.Tensor],
    others: list[str],
    model: Any,
) -> dict[str, Any]:
    """A row of the table."""
    adapter, before = mini.adapter, pictures[0]
    changed = mini.world.node("adapter.transformer").trained_model(model, mini.world.clip)
    templates = default_templates(BY_NAME[name].kind)[:M_TEMPLATES]
    with torch.inference_mode(False):
        references = References(adapter.encode_images(before.clone(), mini.world.vae))
        score = m_score(
            adapter,
            changed,
            references,
            name,
            templates,
            INVERSION,
            pooled_features(adapter),
            lambda a: a.ready_for_gradients(text=True),
        )
    mini.world.host.load(mini.world.model)
    clip_before, clip_after = (clip_score(mini.image_text, images, prompts) for images in pictures)
    kept = [clip_score(mini.image_text, mini.pictures(others, m), others) for m in (None, model)]
    return {
        "concept": name, "method": method, "M-Score before": score.before, "M-Score after": score.after,
        "CLIP before": clip_before, "CLIP after": clip_after, "others before": kept[0], "others after": kept[1],
    }  # fmt: skip


def style(mini: Miniature, page: Page) -> None:
    """A style in closed form: subjects that are drawn in it, before and after."""
    model = mini.closed_form([mini.concept(STYLE, "style")])
    prompts = [mini.prompts(SUBJECTS[n % len(SUBJECTS)], STYLE)[n % 2] for n in range(mini.count)]
    page.add(f"in {STYLE} style", mini.pictures(prompts))
    page.add(f"{STYLE} forgotten", mini.pictures(prompts, model))


def corrected(mini: Miniature, page: Page) -> None:
    """The dominant meaning of an ambiguous word, inverted from pictures of the model and taken from the word."""
    adapter, templates = mini.adapter, list(default_templates("object"))
    images = mini.pictures(mini.prompts(DOMINANT), seed=7000)
    with torch.inference_mode(False):
        references = References(adapter.encode_images(images.clone(), mini.world.vae))
        settings = InversionSettings(tokens=2, words=WORD, steps=60, warmup=12, learning_rate=2e-2, batch=4)
        with adapter.ready_for_gradients(text=True):
            embedding = invert_concept(adapter, references, templates, settings).embedding
        concept = Concept([], "object", templates, embedding=embedding)
        model = mini.patched(correct_concept(adapter, WORD, [OTHER], concept))
    prompts = mini.prompts(WORD)
    page.add(f'"{WORD}"', mini.pictures(prompts))
    page.add(f'"{WORD}", corrected to {OTHER}', mini.pictures(prompts, model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("unet", "flux"), default="unet")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    started, page = time.time(), Page()
    mini = Miniature(args.model, 2 if args.quick else PICTURES)
    zeroed(mini, page)
    forgotten(mini, page, IDENTITIES[:1] if args.quick else IDENTITIES)
    style(mini, page)
    corrected(mini, page)
    table = markdown_table(page.rows, tuple(page.rows[0]))
    print(table)
    picture = grid_page(
        torch.cat(page.pictures), page.labels, [str(n + 1) for n in range(mini.count)], cell=96, left=300
    )
    if not args.quick:
        picture.save(RESULTS / f"paper_{args.model}.png")
        (RESULTS / f"paper_{args.model}.md").write_text(page_text(args.model, table, time.time() - started))


def page_text(model: str, table: str, seconds: float) -> str:
    """The page with its table and pictures."""
    return f"""# The paper's figures and Table 1, miniature {model}

Made by `python -m bench.paper --model {model}` on {machine()}, {time.strftime("%Y-%m-%d")}, in {seconds / 60:.0f} minutes. CLIP: the image-text model that ships with the miniature.
M-Score: two vectors inverted from {PICTURES} pictures in {INVERSION.steps} steps, compared in the text encoder's own features; lower after than before means forgotten.

{table}

![pictures](paper_{model}.png)
"""


if __name__ == "__main__":
    main()
