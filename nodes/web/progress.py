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
# Steps between two plots of an inversion's loss.
LOSS_EVERY = 5


def progress_callback(monitor: Monitor, adapter: ComfyModel, title: str) -> Progress:
    """Returns a callback for the steps of a training, which plots curves in the node and sends all figures to the monitor."""
    bar = host.Progress(monitor.state["total"])
    series: dict[str, list[float]] = {"loss": [], "attention mass": []}

    def progress(done: int, total: int, figures: dict[str, Any]) -> bool:
        for curve, figure in (("loss", "loss"), ("attention mass", "mass")):
            if figure in figures:
                series[curve].append(figures[figure])
        bar.update(done, total, pictures.curves({k: v for k, v in series.items() if v}, total, title))
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
        Title of the plot and of the page's monitor.
    steps
        Most steps of the search.
    losses
        The loss of each step is appended to this list.
    """
    bar = host.Progress(steps)

    def progress(done: int, total: int, figures: dict[str, float]) -> bool:
        losses.append(figures["loss"])
        picture = pictures.curves({"loss": losses}, total, title) if done % LOSS_EVERY == 0 else None
        bar.update(done, total, picture)
        return monitor.update(done, figures)

    with Monitor(title, steps) as monitor:
        yield progress
