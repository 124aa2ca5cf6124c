"""This pack's modules as the host imports them."""

import sys
from collections.abc import Iterable
from types import SimpleNamespace

from mini_sd import comfy_host


def modules_of(nodes: Iterable[str], core: Iterable[str] = ()) -> SimpleNamespace:
    """Modules of nodes/ and fmn_core/ by their names."""
    comfy_host.load_pack()
    found = {n: sys.modules[f"{comfy_host.PACK_NAME}.nodes.{n}"] for n in nodes}
    return SimpleNamespace(**found, **{n: sys.modules[f"{comfy_host.PACK_NAME}.fmn_core.{n}"] for n in core})
