"""The live monitor of a training: its state for the page, and the request to stop early."""

from __future__ import annotations

import time
from typing import Any

from PIL import Image

from .. import host
from ..ui.preview_picture import data_uri

EVENT = "forget_me_not.monitor"
# Most points of a curve in a message, and least seconds between messages: a long training must not flood the browser.
_MOST_POINTS, _PAUSE = 300, 0.2
# Most trainings whose state is kept for pages that open later.
_MOST_STATES = 32
_states: dict[str, dict[str, Any]] = {}
_stop_requests: set[str] = set()


class Monitor:
    """Reports one training of the executing node to the page; the training runs inside of its context.

    Parameters
    ----------
    title
        Title of the training on the page.
    total
        Number of steps.
    """

    def __init__(self, title: str, total: int):
        self.node, self.started, self.sent = host.running_node(), time.monotonic(), 0.0
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.state: dict[str, Any] = {"node": self.node, "title": title, "step": 0, "total": total, "running": True}
        _stop_requests.discard(self.node)
        _states.pop(self.node, None)
        while len(_states) >= _MOST_STATES:
            _states.pop(next(iter(_states)))
        _states[self.node] = self.state
        self._send()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: Any) -> None:
        """Reports the end of the training, after an error too."""
        _stop_requests.discard(self.node)
        self.state["running"] = False
        self._send()

    def update(self, step: int, figures: dict[str, float], picture: Image.Image | None = None) -> bool:
        """Reports a step to the page.

        Parameters
        ----------
        step
            Number of the step, from 1.
        figures
            New point of each curve, by the curve's name.
        picture
            A preview to show, or None to keep the last.

        Returns
        -------
        Whether the user asked to stop and keep the training's state.
        """
        for name, figure in figures.items():
            self.curves.setdefault(name, []).append((step, figure))
        seconds = time.monotonic() - self.started
        self.state |= {"step": step, "seconds": seconds, "left": seconds / step * (self.state["total"] - step)}
        if picture is not None:
            self.state["preview"] = data_uri(picture)
        if picture is not None or time.monotonic() - self.sent > _PAUSE:
            self._send()
        return self.node in _stop_requests

    def _send(self) -> None:
        self.state["curves"] = {name: thin_curve(points) for name, points in self.curves.items()}
        self.sent = time.monotonic()
        host.send_event(EVENT, self.state)


def training_states() -> dict[str, dict[str, Any]]:
    """The last states of the latest trainings since the server started, by node id."""
    return dict(_states)


def request_stop(node: str) -> bool:
    """Asks the training of a node to stop and keep its state; returns whether one runs."""
    running = _states.get(node, {}).get("running", False)
    if running:
        _stop_requests.add(node)
    return running


def thin_curve(points: list[tuple[int, float]], count: int = _MOST_POINTS) -> list[tuple[int, float]]:
    """Returns at most `count` points of a curve, evenly spread, with the first and the last among them."""
    if len(points) <= count:
        return list(points)
    return [points[round(k * (len(points) - 1) / (count - 1))] for k in range(count)]
