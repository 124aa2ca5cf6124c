"""The demo on the miniature FLUX: scenes of two things, one of which is forgotten."""

from __future__ import annotations

from typing import Any

from bench.picture_figures import drift
from bench.scene_world import asks_of, shares
from mini_flux.judge import load_judge, look_at
from mini_flux.things import BY_NAME, THINGS
from mini_sd.concepts import STYLE_NAMES, drawn_styles, with_article
from tools.comfy_server import ComfyServer
from tools.demo.running import measuring_prompt, pictures_of, run_with_progress

WORKFLOW, LOADER = "15 Forget a thing in a scene", "FMN_LoadMiniatureFlux"
CONCEPTS = BY_NAME
SCENES = 24


def prompts_of(concept: str) -> list[str]:
    """What is drawn before and after: the concept beside another thing, and two others."""
    name = with_article(concept)
    one, two = [with_article(thing) for thing in ("guitar", "house", "rocket") if thing != concept][:2]
    return [
        f"a picture of {name} to the left of {one} on a blue ground in noto style",
        f"a picture of {two} above {name} on a green ground in fluent style",
        f"a picture of {two} to the left of {one} on a yellow ground in twemoji style",
    ]


def measure(server: ComfyServer, concept: str, patch_file: str) -> dict[str, Any]:
    """Measures, before and after, what the judge of scenes sees in scenes with the concept and without it."""
    everywhere = [
        thing.name for thing in THINGS if thing.name != concept and len(drawn_styles(thing.name)) == len(STYLE_NAMES)
    ]
    asks = dict(zip(("beside", "alone", "others"), asks_of([concept], everywhere, SCENES, seed=1)))
    wanted = {name: (ask.prompts, 1) for name, ask in asks.items()}
    outputs = run_with_progress(server, measuring_prompt(LOADER, patch_file, wanted), "measuring")
    pictures = {name: pictures_of(server, outputs[name]) for name in asks}
    judge, figures = load_judge(), {}
    for n, when in enumerate(("before", "after")):
        seen = shares(tuple(asks.values()), tuple(look_at(judge, pictures[name][n]) for name in asks))
        figures |= {f"{name}_{when}": value for name, value in seen.items()}
    return figures | {"drift": drift(*pictures["others"]), "images": 6 * SCENES}
