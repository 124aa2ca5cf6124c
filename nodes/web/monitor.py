"""The live monitor of a training: what the page shows while it runs, and the button that ends it early."""

from __future__ import annotations

import time
from typing import Any

from PIL import Image

from .. import host
from ..ui.preview_picture import data_uri

EVENT = "forget_me_not.monitor"
# Points of a curve that the page gets, and seconds between two messages: a long training must not flood the browser.
_POINTS, _PAUSE = 300, 0.2
# Trainings that are remembered, for pages that are opened later.
_KEPT = 32
_states: dict[str, dict[str, Any]] = {}
_stops: set[str] = set()


class Monitor:
    """Follows one training of the node that is executing."""

    def __init__(self, title: str, total: int):
        self.node, self.started, self.sent = host.running_node(), time.monotonic(), 0.0
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.state: dict[str, Any] = {"node": self.node, "title": title, "step": 0, "total": total, "running": True}
        _stops.discard(self.node)
        _states.pop(self.node, None)
        while len(_states) >= _KEPT:
            _states.pop(next(iter(_states)))
        _states[self.node] = self.state
        self._send()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: Any) -> None:
        """The page is told the end, whatever it was."""
        _stops.discard(self.node)
        self.state["running"] = False
        self._send()

    def update(self, step: int, figures: dict[str, float], picture: Image.Image | None = None) -> bool:
        """Tells the page about a step; `figures` by the curve's name. Returns whether the user wants to stop and keep."""
        for name, value in figures.items():
            self.curves.setdefault(name, []).append((step, value))
        seconds = time.monotonic() - self.started
        self.state |= {"step": step, "seconds": seconds, "left": seconds / step * (self.state["total"] - step)}
        if picture is not None:
            self.state["preview"] = data_uri(picture)
        if picture is not None or time.monotonic() - self.sent > _PAUSE:
            self._send()
        return self.node in _stops

    def _send(self) -> None:
        self.state["curves"] = {name: thinned(points) for name, points in self.curves.items()}
        self.sent = time.monotonic()
        host.send_event(EVENT, self.state)


def states() -> dict[str, dict[str, Any]]:
    """The last state of every training since the server started, by node id."""
    return dict(_states)


def stop(node: str) -> bool:
    """Asks the training of a node to end and keep what it has; False where none runs."""
    running = _states.get(node, {}).get("running", False)
    if running:
        _stops.add(node)
    return running


def thinned(points: list[tuple[int, float]], most: int = _POINTS) -> list[tuple[int, float]]:
    """At most so many points, evenly spread, first and last included."""
    if len(points) <= most:
        return list(points)
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]
