"""Progress of a training, in the node and in the page's monitor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .. import host
from ..adapter.model import ComfyModel
from ..ui import pictures
from .monitor import Monitor

Progress = Callable[[int, int, dict[str, Any]], bool]
CURVES = {"loss": "loss", "mass": "attention mass", "target": "target", "drift": "drift"}
# Steps between two pictures of an inversion's loss.
LOSS_EVERY = 5


def progress_callback(monitor: Monitor, adapter: ComfyModel, title: str) -> Progress:
    """What a training calls every step: it draws the curves in the node and sends all figures to the page's monitor."""
    bar = host.Progress(monitor.state["total"])
    series: dict[str, list[float]] = {"loss": [], "attention mass": []}

    def progress(done: int, total: int, figures: dict[str, Any]) -> bool:
        for curve, name in (("loss", "loss"), ("attention mass", "mass")):
            if name in figures:
                series[curve].append(figures[name])
        bar.update(done, total, pictures.curves({k: v for k, v in series.items() if v}, total, title))
        latents = figures.get("preview")
        picture = None if latents is None else pictures.latent_picture(adapter.patcher, latents)
        return monitor.update(done, {label: figures[k] for k, label in CURVES.items() if figures.get(k)}, picture)

    return progress


@contextlib.contextmanager
def search_progress(title: str, steps: int, losses: list[float]) -> Iterator[Progress]:
    """Progress of a search for token embeddings.

    Parameters
    ----------
    title
        Title of the plot and of the page's monitor.
    steps
        Steps that the search may take.
    losses
        Gets the loss of each step.
    """
    bar = host.Progress(steps)

    def progress(done: int, total: int, figures: dict[str, float]) -> bool:
        losses.append(figures["loss"])
        picture = pictures.curves({"loss": losses}, total, title) if done % LOSS_EVERY == 0 else None
        bar.update(done, total, picture)
        return monitor.update(done, figures)

    with Monitor(title, steps) as monitor:
        yield progress
