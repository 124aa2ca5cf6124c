"""This pack's modules as the host imports them."""

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tools import comfy_host


def modules_of(nodes: Iterable[str], core: Iterable[str] = ()) -> SimpleNamespace:
    """Modules of nodes/ and fmn_core/ by their names."""
    comfy_host.load_pack()
    found = {n: sys.modules[f"{comfy_host.PACK_NAME}.nodes.{n}"] for n in nodes}
    return SimpleNamespace(**found, **{n: sys.modules[f"{comfy_host.PACK_NAME}.fmn_core.{n}"] for n in core})


@contextlib.contextmanager
def interrupted(pack: SimpleNamespace, monkeypatch: Any, at: int = 3) -> Iterator[None]:
    """The user interrupts what runs inside, at the node's third look; it must not be swallowed.

    The text encoder looks for every prompt, long before a training begins: these looks do not count.
    """
    looks = itertools.count(1)

    class StopError(Exception):
        pass

    def stop() -> None:
        if not sys._getframe(1).f_globals["__name__"].endswith(".comfy_text") and next(looks) == at:
            raise StopError

    monkeypatch.setattr(pack.host, "check_interrupted", stop)
    with pytest.raises(StopError):
        yield
