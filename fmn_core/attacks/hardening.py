"""Adversarial hardening: the patched model is attacked, and the embeddings of the attack are forgotten in the next solve."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch

from ..closed_form.forget import forget_closed_form
from ..closed_form.settings import FORGOTTEN, ClosedFormSettings
from ..closed_form.targets import template_pairs
from ..closed_form.vocabulary import related_words, with_synonyms
from ..concepts.concept import Concept
from ..concepts.preserve import TEMPLATES_PER_NAME
from ..concepts.templates import default_templates, spread_templates
from ..model.protocol import ForgetModel
from ..options import option, options
from ..patch.patch import Factors, ForgetPatch, kohya_name
from ..training.inversion import invert_concept
from ..training.references import References
from ..training.settings import MOST_SEED
from ..training.trainable import injected
from .search import Budget, attack_settings

MOST_ROUNDS, MOST_SEARCHES = 10, 16


@options
class Hardening:
    """Number of attacks on a closed form: in each round, every concept is attacked by several searches with different seeds."""

    rounds: int = option(
        default=1,
        help="Rounds that search, on the patched model and by gradient, for embeddings that bring the concept back, and forget them too. "
        "0: none, no gradient is needed. Searches on the connected images, or on pictures that the model draws.",
        minimum=1,
        maximum=MOST_ROUNDS,
    )
    searches: int = option(default=2, help="Searches for each concept in each round.", minimum=1, maximum=MOST_SEARCHES)
    budget: Budget = option(default=Budget, help="What each search may spend.")


def forget_hardened(
    model: ForgetModel,
    concepts: list[Concept],
    references: Sequence[References],
    settings: ClosedFormSettings | None = None,
    hardening: Hardening | None = None,
    progress: Callable[[int, int, dict], bool | None] | None = None,
) -> ForgetPatch:
    """Solves a closed form, attacks it with embedding searches, and solves it again with their embeddings, round after round.

    Parameters
    ----------
    model
        It must allow gradients through its text encoder.
    references
        Pictures of each concept, which a search makes the patched model draw.
    progress
        Called every step of a search as progress(done, total, figures). It may raise to interrupt. Returning True ends the search.

    Raises
    ------
    ForgetError
        On settings out of range, and what forget_closed_form and invert_concept raise.

    Notes
    -----
    Each search starts at a concept's first name and learns vectors on the model with the patch of the round before. The vectors join the
    concept's names in the next solve, and are not kept in the patch. Source: adversarial training, with the searches of Pham et al.,
    Circumventing Concept Erasure Methods, in place of RECE's algebra.
    """
    hardening = hardening or Hardening()
    settings, report_progress = settings or ClosedFormSettings(), progress or (lambda done, total, figures: None)
    started, attacks = time.perf_counter(), list[Concept]()
    total = hardening.rounds * hardening.searches * len(concepts) * hardening.budget.steps
    if settings.synonyms == FORGOTTEN:
        concepts = with_synonyms(concepts, related_words(model, concepts, settings.vocabulary_words))
    patch = _solve(model, concepts, [], settings)
    for number in range(hardening.rounds):
        with _patched(model, patch):
            for search in range(hardening.searches):
                seed = (hardening.budget.seed + number * hardening.searches + search) % (MOST_SEED + 1)
                budget = replace(hardening.budget, seed=seed)
                for concept, pictures in zip(concepts, references, strict=True):
                    done = len(attacks) * budget.steps
                    attacks.append(
                        _attack(model, concept, pictures, budget, lambda n, f, d=done: report_progress(d + n, total, f))
                    )
        patch = _solve(model, concepts, attacks, settings)
    patch.concepts = [c.as_dict() for c in concepts]
    patch.settings |= {"attack_rounds": hardening.rounds, "attack": asdict(hardening)}
    patch.figures["seconds"] = time.perf_counter() - started
    return patch


def _solve(
    model: ForgetModel,
    concepts: list[Concept],
    attacks: list[Concept],
    settings: ClosedFormSettings,
) -> ForgetPatch:
    """Solves the closed form of the concepts and of the embeddings that attacks have learned."""
    target, substitute, overshoot = settings.target, settings.substitute, settings.overshoot
    pairs = template_pairs(concepts, target, substitute, overshoot)
    # Learned vectors are no words: those of an attack go to the target itself where the overshoot depends on the kind.
    pairs += template_pairs(attacks, target, substitute, max(0, overshoot))
    with torch.no_grad():
        return forget_closed_form(model, [*concepts, *attacks], settings, pairs=pairs)


def _attack(
    model: ForgetModel,
    concept: Concept,
    references: References,
    budget: Budget,
    report_progress: Callable[[int, dict], bool | None],
) -> Concept:
    """Attacks a concept by an embedding search; returns the concept with the learned vectors as its only name.

    It gets a part of the concept's templates, because learned vectors may lie anywhere, and in all templates they would move other words
    further.
    """
    name = concept.names()[0]
    settings = attack_settings(model, name.text, budget, name.embedding)
    templates = list(default_templates(concept.kind))
    inversion = invert_concept(
        model,
        references,
        templates,
        settings,
        name.embedding,
        lambda done, total, figures: report_progress(done, figures),
    )
    return replace(
        concept,
        phrases=[],
        embedding=inversion.embedding,
        templates=spread_templates(concept.templates, TEMPLATES_PER_NAME),
    )


def _patched(model: ForgetModel, patch: ForgetPatch) -> contextlib.AbstractContextManager[None]:
    """Adds the patch to the outputs of the model's layers while the context lasts; no weight is changed."""
    layers = {kohya_name(name): module for name, module in model.linear_layers().items()}
    layers |= {kohya_name(a.name, p): m for a in model.cross_attention() for p, m in a.projections.items()}
    return injected(layers, {name: _linear_change(f, model.device) for name, f in patch.factors.items()})


def _linear_change(factors: Factors, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function x -> dW x of a linear layer, in float32."""
    up, down = factors.up.float().to(device) * (factors.alpha / factors.rank), factors.down.float().to(device)
    return lambda x: x.to(down.dtype) @ down.T @ up.T
