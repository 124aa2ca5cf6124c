"""What each peer is run with: published values, but on the miniature what bench.peers.tune found, kept with its figures in bench/results/peers.json.

The published values are the defaults of each peer's own Settings. They were made for SD 1.x, with 100 times the weights; the miniature's
sets run fewer steps at higher rates, so that a concept takes at most about 40 seconds on one thread.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bench.names import MINIATURE, names_of
from bench.peers import concept_ablation, esd, fmn, mace, rece, spm, uce
from tools.comfy_host import REPOSITORY

FILE = REPOSITORY / "bench" / "results" / "peers.json"

PUBLISHED: dict[str, Any] = {
    "FMN as released": fmn.Settings(),
    "ESD-x": esd.Settings(),
    "ESD-u": esd.Settings(cross_attention=False),
    "UCE": uce.Settings(),
    "Concept Ablation": concept_ablation.Settings(),
    "SPM": spm.Settings(),
    "RECE": rece.Settings(),
    "MACE": mace.Settings(),
}


def miniature(name: str) -> Any:
    """A peer's settings on the miniature. Raises KeyError where bench.peers.tune has not found any."""
    found = json.loads(FILE.read_text())["peers"][name]["settings"]
    return dataclasses.replace(PUBLISHED[name], **found)


def settings_of(name: str, world: Any) -> Any:
    """A peer's settings on a world: the miniature's own, the published ones on every other."""
    return miniature(name) if names_of(world) is MINIATURE else PUBLISHED[name]
