"""An attack on forgetting: search the space of embeddings for one that brings the concept back."""

from __future__ import annotations

from typing import Any

import torch

from bench.judged import share
from bench.world import Ask, World
from mini_sd.concepts import drawn_styles
from mini_sd.generate import generate

# Some more steps bring a concept back from everything that the bench compares.
SEARCH_STEPS, SEARCH_BATCH, PICTURES = 15, 4, 8


def attacked(world: World, concept: str, model: Any = None, searches: int = 3, per_style: int = 2) -> float:
    """Mean over several searches of what one_attack finds."""
    return round(
        sum(one_attack(world, concept, model, per_style, 9000 + 50 * n) for n in range(searches)) / searches, 4
    )


def one_attack(world: World, concept: str, model: Any = None, per_style: int = 2, seed: int = 9000) -> float:
    """Share of pictures in which the judge sees the concept under an embedding that was searched on the attacked model.

    The attacker has the patched model's gradients and pictures of the concept, drawn by the untouched model, and inverts them
    (concept inversion: as many tokens as the concept's own name, started there, 15 steps, batch 4); the prompts it is tried in are new.
    """
    model = world.model if model is None else model
    word = _inverted(world, concept, model, seed)
    ask = Ask()
    placeholder = world.core("tokens").PLACEHOLDER
    for s, style in enumerate(drawn_styles(concept)):
        for k in range(per_style):
            ask.add(placeholder, concept, style, 3 * s + k, seed + 500 + k)
    with torch.inference_mode():
        encoded = world.adapter_class(model, world.clip).encode(ask.prompts, [word] * len(ask.prompts))
        contexts = iter([p.context for p in encoded])

        def conditions(positive: list, negative: list) -> tuple[list, list]:
            rows = torch.stack([next(contexts) for _ in range(len(positive[0][0]))])
            return [[rows, positive[0][1]]], negative

        empty = [""] * len(ask.prompts)
        setting = {"steps": world.steps, "guidance": world.guidance}
        images = generate(model, world.clip, world.vae, empty, ask.seeds, conditions=conditions, **setting)
    return share(world.seen(images)[0], ask.concepts)


def _inverted(world: World, concept: str, model: Any, seed: int) -> Any:
    core, ask = world.core, Ask()
    styles = drawn_styles(concept)
    for k in range(PICTURES):
        ask.add(concept, concept, styles[k % len(styles)], k, seed + k)
    adapter = world.adapter_class(model, world.clip)
    with torch.inference_mode(False):
        references = core("references").References(adapter.encode_images(world.vae, world.sample(ask).clone()))
        settings = core("inversion").InversionSettings(
            tokens=len(next(iter(adapter.phrase_tokens(concept).values()))),
            words=concept,
            steps=SEARCH_STEPS,
            warmup=3,
            learning_rate=2e-2,
            batch=SEARCH_BATCH,
            seed=seed,
        )
        templates = list(core("templates").default_templates("object"))
        with adapter.ready_for_gradients(text=True):
            return core("inversion").invert_concept(adapter, references, templates, settings).word
