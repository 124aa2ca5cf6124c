"""Other concept-erasing methods, written from their papers: PEERS maps their names to `peer(world, *names, seed=0)`.

A peer is a context manager that yields a bench.methods.Applied and leaves the world as it was. Its argument `chosen`, a
Settings of the peer's module, replaces the settings of bench.peers.settings.
"""

from __future__ import annotations

from functools import partial

from bench.peers import concept_ablation, esd, fmn, mace, rece, uce
from bench.peers.applying import Peer, adapting, editing
from bench.peers.settings import settings_of

_MODULES = {
    "FMN as released": fmn,
    "ESD-x": esd,
    "ESD-u": esd,
    "UCE": uce,
    "Concept Ablation": concept_ablation,
    "RECE": rece,
    "MACE": mace,
}
PEERS: dict[str, Peer] = {
    **{name: editing(module, partial(settings_of, name)) for name, module in _MODULES.items()},
    "SPM": adapting(partial(settings_of, "SPM")),
}
