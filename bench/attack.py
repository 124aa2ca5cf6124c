"""Attacks on forgetting: a search for an embedding, or for ordinary words, that brings the concept back."""

from __future__ import annotations

from typing import Any

import torch

from bench.picture_figures import share
from bench.world import Ask, World
from fmn_core.attacks.search import Budget, search_embedding, search_tokens
from fmn_core.concepts.templates import default_templates
from fmn_core.model.tokens import PLACEHOLDER
from fmn_core.training.references import References
from mini_sd.concepts import CONCEPT_NAMES, STYLE_NAMES, drawn_styles
from mini_sd.generate import generate

# With a few times as many steps the search brings a concept back from every method of the bench.
SEARCH_STEPS, SEARCH_BATCH, PICTURES = 15, 4, 8


def attacked(
    world: World, concept: str, model: Any = None, searches: int = 3, per_style: int = 2, attack: str = "embedding"
) -> float:
    """Mean of `one_attack` over several searches with different seeds."""
    seeds = [9000 + 50 * n for n in range(searches)]
    return round(sum(one_attack(world, concept, model, per_style, seed, attack) for seed in seeds) / searches, 4)


def one_attack(
    world: World,
    concept: str,
    model: Any = None,
    per_style: int = 2,
    seed: int = 9000,
    attack: str = "embedding",
    steps: int = SEARCH_STEPS,
) -> float:
    """Share of pictures in which the judge sees the concept again after one attack on the patched model.

    Parameters
    ----------
    concept
        Name of a thing or of a style.
    model
        The patched MODEL; None: the world's.
    per_style
        Pictures of each style in which the attack is tried.
    attack
        "embedding" or "tokens".

    Notes
    -----
    The attacker has the patched model's gradients, and pictures of the concept that the untouched model drew. The
    search starts at the concept's name and gives an embedding, or a text, of as many tokens
    (fmn_core/attacks/search.py). It is tried in new prompts.
    """
    model = world.model if model is None else model
    adversarial = search_input(world, concept, model, seed, attack, steps)
    is_text = isinstance(adversarial, str)
    ask = trial_ask(concept, adversarial if is_text else PLACEHOLDER, per_style, seed + 500)
    images = world.sample(ask, model) if is_text else sample_with_embedding(world, model, ask, adversarial)
    return share(world.seen(images)[concept in STYLE_NAMES], [concept] * len(images))


def search_input(
    world: World, concept: str, model: Any, seed: int = 9000, attack: str = "embedding", steps: int = SEARCH_STEPS
) -> Any:
    """The text of a token search, or the learned embedding of an embedding search, on a model."""
    adapter = world.adapter_class(model, world.clip)
    kind = "style" if concept in STYLE_NAMES else "object"
    with torch.inference_mode(False):
        references = References(adapter.encode_images(world.sample(reference_ask(concept, seed)).clone(), world.vae))
        budget = Budget(steps=steps, batch=SEARCH_BATCH, seed=seed)
        arguments = (adapter, references, list(default_templates(kind)), concept, budget)
        with adapter.ready_for_gradients(text=True):
            if attack == "embedding":
                return search_embedding(*arguments)
            if attack == "tokens":
                return search_tokens(*arguments, world.host.token_spellings(world.clip))
    raise ValueError(f"Expected the attack embedding or tokens, got {attack!r}.")


def reference_ask(concept: str, seed: int) -> Ask:
    """Prompts of the pictures that the attacker learns from: a thing in its styles, or a style on things."""
    ask = Ask()
    for k in range(PICTURES):
        if concept in STYLE_NAMES:
            ask.add(_things_in_style(concept)[k], _things_in_style(concept)[k], concept, k, seed + k)
        else:
            ask.add(concept, concept, drawn_styles(concept)[k % len(drawn_styles(concept))], k, seed + k)
    return ask


def trial_ask(concept: str, words: str, per_style: int, seed: int) -> Ask:
    """Prompts that try the result of an attack: a thing in all of its styles, or a style on other things."""
    ask = Ask()
    for s, style in enumerate(STYLE_NAMES if concept in STYLE_NAMES else drawn_styles(concept)):
        for k in range(per_style):
            thing = _things_in_style(concept)[PICTURES + per_style * s + k] if concept in STYLE_NAMES else words
            ask.add(thing, concept, words if concept in STYLE_NAMES else style, 3 * s + k, seed + k)
    return ask


def _things_in_style(style: str) -> list[str]:
    """Things that the miniature draws in a style."""
    return [c for c in CONCEPT_NAMES if style in drawn_styles(c)]


def sample_with_embedding(world: World, model: Any, ask: Ask, embedding: Any, gate: Any = None) -> torch.Tensor:
    """Pictures of an ask with a learned embedding at the placeholder, behind a gate (methods.gate_function) if given."""
    with torch.inference_mode():
        encoded = world.adapter_class(model, world.clip).encode(ask.prompts, [embedding] * len(ask.prompts))
        contexts = iter([p.context for p in encoded])

        def conditions(positive: list, negative: list) -> tuple[list, list]:
            rows = torch.stack([next(contexts) for _ in range(len(positive[0][0]))])
            positive = [[rows, positive[0][1]]]
            return gate(positive, negative) if gate else (positive, negative)

        empty = [""] * len(ask.prompts)
        setting = {"steps": world.steps, "guidance": world.guidance}
        return generate(model, world.clip, world.vae, empty, ask.seeds, conditions=conditions, **setting)
