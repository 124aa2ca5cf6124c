"""Shows the progress of a training in the node and in the page's monitor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .. import host
from ..adapter.model import ComfyModel
from ..ui import pictures
from .monitor import Monitor

# Called with the steps done, their total and the step's figures; returns whether the user asked to stop.
Progress = Callable[[int, int, dict[str, Any]], bool]
# Figure of a step -> title of its curve in the monitor.
CURVES = {"loss": "loss", "mass": "attention mass", "target": "target", "drift": "drift"}


def progress_callback(monitor: Monitor, adapter: ComfyModel) -> Progress:
    """Returns a callback for the steps of a training, which sends all figures to the monitor."""
    bar = host.Progress(monitor.state["total"])

    def progress(done: int, total: int, figures: dict[str, Any]) -> bool:
        bar.update(done, total)
        latents = figures.get("preview")
        picture = None if latents is None else pictures.latent_picture(adapter.patcher, latents)
        return monitor.update(done, {label: figures[k] for k, label in CURVES.items() if figures.get(k)}, picture)

    return progress


@contextlib.contextmanager
def search_progress(title: str, steps: int, losses: list[float]) -> Iterator[Progress]:
    """Yields a callback for the steps of a search for token embeddings.

    Parameters
    ----------
    title
        Title in the page's monitor.
    steps
        Most steps of the search.
    losses
        The loss of each step is appended to this list.
    """
    bar = host.Progress(steps)

    def progress(done: int, total: int, figures: dict[str, float]) -> bool:
        losses.append(figures["loss"])
        bar.update(done, total)
        return monitor.update(done, figures)

    with Monitor(title, steps) as monitor:
        yield progress
