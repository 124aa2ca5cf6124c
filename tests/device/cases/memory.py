"""What trainings leave in the memory of device and host."""

from __future__ import annotations

import gc

import torch

from ..world import FLOAT32, RESTEER
from .registry import case


def _offloaded(w) -> dict[str, int]:
    """Addresses of the UNet's weights that the host keeps elsewhere."""
    device = w.model.load_device
    return {
        name: p.data_ptr()
        for name, p in w.model.model.diffusion_model.named_parameters()
        if p.device.type != device.type
    }


@case
def offloaded_weights_stay(w):
    """Weights that the host keeps on the CPU, whose memory it may have pinned, lie where they lay."""
    w.sample(w.model)
    before = _offloaded(w)
    w.train(method=RESTEER, steps=1)
    after = _offloaded(w)
    moved = [name for name, address in before.items() if after.get(name, address) != address]
    return {"moved": moved, "offloaded.report": len(before)}


def _cycles(w, count: int) -> dict[str, object]:
    """Trains, applies, draws and frees; device memory after each cycle but the first, in which the host fills its own caches."""
    options = {"imagined_words": 20, "precision": FLOAT32}
    used = []
    for number in range(count):
        w.forget_cache()
        if number % 2:
            _, patch, *_ = w.train(method=RESTEER, steps=1, preserve_prompts="horse")
        else:
            _, patch, *_ = w.train(options=w.closed_form_options(**options), preserve_prompts="horse")
        model = w.nodes.ApplyForgetPatch.execute(w.model, "", 1.0, patch).args[0]
        w.sample(model, steps=1)
        del model, patch
        w.management.unload_all_models()
        gc.collect()
        used.append(torch.fake.memory_allocated() if w.configuration.device == "fake" else 0)
    grown = [size - used[1] for size in used[1:]]
    return {"grown": [size for size in grown if size > 0], "used.report": used}


@case
def six_cycles(w):
    return _cycles(w, 6)


@case
def hundred_cycles(w):
    return _cycles(w, 100)
