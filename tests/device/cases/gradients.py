"""Gradients themselves, with weights that the host takes off the card before, during and between passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..world import RESTEER, VISUAL, deltas
from .registry import case


def _gradient(w: Any, method: str, steps: int = 1, name: str = "patch", **changes) -> dict[str, Any]:
    """What SGD adds to the weights: in one step the gradient itself, times the rate."""
    options = w.training_options(optimiser="SGD", weights="full delta", pairs=1, drift_every=0, **changes)
    inputs = {"method": method, "train": "attn2", "steps": steps, "learning_rate": 1e-2, "options": options}
    return deltas(w.train(**inputs)[1], name)


@contextlib.contextmanager
def _at_every_step(call: Callable[[], object]) -> Iterator[None]:
    """Calls a function between the steps of a training, when the host's progress bar moves."""
    import comfy.utils

    before = comfy.utils.ProgressBar.update_absolute

    def update(bar, *args, **kwargs):
        with torch.inference_mode():
            call()
        return before(bar, *args, **kwargs)

    comfy.utils.ProgressBar.update_absolute = update
    try:
        yield
    finally:
        comfy.utils.ProgressBar.update_absolute = before


@case
def gradients(w):
    """One step of each loss, on a model that has sampled."""
    w.sample(w.model, steps=1)
    return {**_gradient(w, RESTEER, name="attention"), **_gradient(w, VISUAL, name="visual")}


@case
def gradients_offloaded_between_steps(w):
    """After each step something else wants the whole card, as a preview's VAE does."""
    device = w.model.load_device
    with _at_every_step(lambda: w.management.free_memory(1e30, device)):
        return _gradient(w, RESTEER, steps=3)


@case
def gradients_evicted_within_a_pass(w):
    """DynamicVRAM takes weights away while a pass is under way, and gives their memory to others."""
    from .. import dynamic_vram

    w.sample(w.model, steps=1)
    evicted = []

    def evict(module, args):
        evicted.extend(vbar.free_memory(1e30) for vbar in dynamic_vram.VBARS)

    handle = w.model.model.diffusion_model.output_blocks[0][0].register_forward_pre_hook(evict)
    try:
        return {**_gradient(w, RESTEER), "evicted.report": sum(evicted)}
    finally:
        handle.remove()
