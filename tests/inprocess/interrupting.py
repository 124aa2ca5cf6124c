"""A user who interrupts a node."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from forget_me_not.nodes import host


@contextlib.contextmanager
def interrupted(monkeypatch: Any, at: int = 3) -> Iterator[None]:
    """The user interrupts what runs inside, at the node's third look; it must not be swallowed."""
    looks = itertools.count(1)

    class StopError(Exception):
        pass

    def stop() -> None:
        if next(looks) == at:
            raise StopError

    monkeypatch.setattr(host, "check_interrupted", stop)
    with pytest.raises(StopError):
        yield
