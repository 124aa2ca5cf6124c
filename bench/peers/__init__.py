"""Other concept-erasing methods, written from their papers: PEERS maps their names to `peer(world, *names, seed=0)`.

A peer is a context manager that yields a bench.methods.Applied and leaves the world as it was. Its argument `chosen`, a
Settings of the peer's module, replaces the settings of bench.peers.settings. A peer with "our contexts" is the published
method on this pack's prompts: the phrase in the default templates, and for UCE and RECE the default preserve set as well
as the list.
"""

from __future__ import annotations

from functools import partial

from bench.peers import concept_ablation, esd, fmn, mace, null_space, rece, uce
from bench.peers.applying import Peer, adapting, editing
from bench.peers.settings import settings_of

_MODULES = {
    "FMN, released rate": fmn,
    "FMN, searched rate": fmn,
    "ESD-x": esd,
    "ESD-x, our contexts": esd,
    "ESD-u": esd,
    "UCE": uce,
    "UCE, our contexts": uce,
    "Concept Ablation": concept_ablation,
    "RECE": rece,
    "RECE, our contexts": rece,
    "MACE": mace,
    "SPEED": null_space,
    "SPEED, our contexts": null_space,
}
PEERS: dict[str, Peer] = {
    **{name: editing(module, partial(settings_of, name)) for name, module in _MODULES.items()},
    "SPM": adapting(partial(settings_of, "SPM")),
}
