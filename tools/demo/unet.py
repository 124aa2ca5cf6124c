"""The demo on the miniature Stable Diffusion."""

from __future__ import annotations

import random

from bench.picture_figures import drift, share
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, STYLE_NAMES, caption_of, drawn_styles
from mini_sd.judge import classify, load_judge
from tools.comfy_server import ComfyServer
from tools.demo.running import PICTURES, measuring_prompt, pictures_of, run_with_progress

WORKFLOW, LOADER = "01 Forget a concept", "FMN_LoadMiniature"
CONCEPTS = BY_NAME
LOOK_ALIKE = {
    "zebra": "horse",
    "horse": "zebra",
    "dog": "fox",
    "fox": "dog",
    "red apple": "green apple",
    "green apple": "red apple",
}


def neighbours(concept: str) -> tuple[str, str]:
    """Two other concepts to show: a look-alike and an unrelated one."""
    same_kind = [n for n in CONCEPT_NAMES if n != concept and BY_NAME[n].kind == BY_NAME[concept].kind]
    look_alike = LOOK_ALIKE.get(concept, same_kind[0])
    unrelated = next(n for n in ("guitar", "house", "robot") if n not in (concept, look_alike))
    return look_alike, unrelated


def prompts_of(concept: str) -> list[str]:
    """What is drawn before and after: the concept and its neighbours."""
    return [caption_of(name, "noto") for name in (concept, *neighbours(concept))]


def measure(server: ComfyServer, concept: str, patch_file: str) -> dict:
    """Measures, before and after, how often the judge recognises the concept in every style and each other concept in one."""
    rng = random.Random(0)
    others = [n for n in CONCEPT_NAMES if n != concept]
    asks = {
        "target": ([caption_of(concept, s) for s in drawn_styles(concept)], PICTURES),
        "others": ([caption_of(n, rng.choice(STYLE_NAMES[:3])) for n in others], 1),
    }
    outputs = run_with_progress(server, measuring_prompt(LOADER, patch_file, asks), "measuring")
    judge = load_judge()
    target, kept = (pictures_of(server, outputs[name]) for name in asks)
    figures = {}
    for when, wanted, rest in zip(("before", "after"), target, kept):
        figures[f"forget_{when}"] = share(classify(judge, wanted)[0], [concept] * len(wanted))
        figures[f"keep_{when}"] = share(classify(judge, rest)[0], others)
    return figures | {"drift": drift(*kept), "images": 2 * (len(target[0]) + len(kept[0]))}
