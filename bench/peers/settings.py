"""Settings of each peer: the published ones, and on the miniature those that bench.peers.tune chose.

The published values are the defaults of each peer's Settings. They were made for SD 1.x, which has 100 times the
weights. Rows with "our contexts" have the published values on this pack's prompts. The miniature's settings run fewer
steps at higher rates, so that a concept takes at most about 40 seconds on one thread; bench/results/peers.json holds
them with their figures.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bench.names import MINIATURE_NAMES, names_of
from bench.peers import concept_ablation, esd, fmn, mace, null_space, rece, spm, uce
from tools.comfy_host import REPOSITORY

FILE = REPOSITORY / "bench" / "results" / "peers.json"

PUBLISHED: dict[str, Any] = {
    "FMN, released rate": fmn.Settings(),
    "FMN, searched rate": fmn.Settings(),
    "ESD-x": esd.Settings(),
    "ESD-x, our contexts": esd.Settings(our_contexts=True),
    "ESD-u": esd.Settings(cross_attention=False),
    "UCE": uce.Settings(),
    "UCE, our contexts": uce.Settings(our_contexts=True),
    "Concept Ablation": concept_ablation.Settings(),
    "SPM": spm.Settings(),
    "RECE": rece.Settings(),
    "RECE, our contexts": rece.Settings(our_contexts=True),
    "MACE": mace.Settings(),
    "SPEED": null_space.Settings(),
    "SPEED, our contexts": null_space.Settings(our_contexts=True),
}


def miniature_settings(name: str) -> Any:
    """A peer's settings on the miniature; raises KeyError where bench.peers.tune has not run for it."""
    tuned = json.loads(FILE.read_text())["peers"][name]["settings"]
    return dataclasses.replace(PUBLISHED[name], **tuned)


def settings_of(name: str, world: Any) -> Any:
    """A peer's settings on a world: the tuned ones on the miniature, the published ones on every other model."""
    return miniature_settings(name) if names_of(world) is MINIATURE_NAMES else PUBLISHED[name]
