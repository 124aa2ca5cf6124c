"""Applies the peers' edited weights and adapters in ComfyUI, with the interface of bench.methods."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from bench.methods import Applied
from bench.peers import spm
from bench.peers.adapters import Adapters
from bench.peers.peer_prompts import forgotten, preserved
from bench.world import Ask, World
from mini_sd.generate import BATCH

Peer = Callable[..., contextlib.AbstractContextManager[Applied]]


def edited_model(world: World, changed: dict[str, torch.Tensor]) -> Any:
    """A clone of the world's MODEL whose weights are replaced by the changed ones; the world's MODEL stays as it is."""
    model = world.model.clone()
    model.add_patches({f"diffusion_model.{name}": ("set", (weight,)) for name, weight in changed.items()})
    return model


def editing(method: Any, settings: Callable[[World], Any]) -> Peer:
    """The peer of a method that changes weights; its artefact is the changed weights in half precision."""

    @contextlib.contextmanager
    def peer(world: World, *names: str, seed: int = 0, chosen: Any = None) -> Iterator[Applied]:
        with torch.inference_mode(False):
            adapter, started = world.adapter(), time.perf_counter()
            arguments = forgotten(world, names), chosen or settings(world), seed, preserved(world, names)
            changed = method.forget(adapter, *arguments)
            seconds = time.perf_counter() - started
        try:
            yield Applied(edited_model(world, changed), None, seconds, sum(2 * w.numel() for w in changed.values()))
        finally:
            world.host.load(world.model)  # takes the clone's weights off the shared network

    return peer


def adapting(settings: Callable[[World], Any]) -> Peer:
    """The peer SPM: one adapter a name, scaled by each prompt's similarity; its artefact is in half precision."""

    @contextlib.contextmanager
    def peer(world: World, *names: str, seed: int = 0, chosen: Any = None) -> Iterator[Applied]:
        spm_settings = chosen or settings(world)
        with torch.inference_mode(False):
            adapter, started = world.adapter(), time.perf_counter()
            trained = [(spm.train(adapter, c, spm_settings, seed), c.phrase) for c in forgotten(world, names)]
            seconds = time.perf_counter() - started
        size = sum(adapters.bytes_in_half() for adapters, _ in trained)
        yield Applied(None, lambda ask: gated_pictures(world, adapter, trained, ask), seconds, size)

    return peer


def gated_pictures(world: World, adapter: Any, trained: Sequence[tuple[Adapters, str]], ask: Ask) -> torch.Tensor:
    """Pictures of an ask with every adapter at the strength that spm.transport gives for each prompt.

    Parameters
    ----------
    trained
        Adapters, each with the bare phrase that it erases.
    """
    images, batch = [], getattr(world, "batch", BATCH)
    for start in range(0, len(ask.prompts), batch):
        prompts, seeds = ask.prompts[start : start + batch], ask.seeds[start : start + batch]
        encoded = adapter.encode(prompts)
        with contextlib.ExitStack() as stack:
            for adapters, erased_phrase in trained:
                [target] = adapter.encode([erased_phrase])
                gammas = [spm.transport(p, target, adapter.vocabulary) for p in encoded]
                stack.enter_context(adapters.applied(torch.tensor(gammas)))
            images.append(world.sample(Ask(prompts, seeds), world.model))
    return torch.cat(images)
