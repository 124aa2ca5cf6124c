"""Closed forms that were attacked: what a search finds on the patched model is forgotten too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch

from ..closed_form.forget import forget_closed_form
from ..closed_form.settings import ClosedFormSettings
from ..closed_form.targets import template_pairs
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
    """How often a closed form is attacked: in each round, every concept by several searches, each with draws of its own."""

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
    size: tuple[int, int, int] | None = None,
) -> ForgetPatch:
    """A closed form that is attacked with embeddings and solved again with what they found, round after round.

    Each search starts at a concept's first name and learns, on the model with the patch of the round before, vectors with which it draws
    the `references` of that concept; they join the concept's names in the next solve, and are not kept in the patch. `progress(done,
    total, figures)` is called every step of a search, may raise to interrupt, and ends the search by returning True. `size`: see forget_closed_form. The model must
    allow gradients through its text encoder. Raises ForgetError on settings out of range, and what forget_closed_form and invert_concept
    raise. Source: adversarial training, with the searches of Pham et al., Circumventing Concept Erasure Methods, in place of RECE's algebra.
    """
    hardening = hardening or Hardening()
    settings, report_progress = settings or ClosedFormSettings(), progress or (lambda done, total, figures: None)
    started, revived = time.perf_counter(), list[Concept]()
    total = hardening.rounds * hardening.searches * len(concepts) * hardening.budget.steps
    patch = _solved(model, concepts, [], settings, size)
    for number in range(hardening.rounds):
        with _patched(model, patch):
            for k in range(hardening.searches):
                seed = (hardening.budget.seed + number * hardening.searches + k) % (MOST_SEED + 1)
                budget = replace(hardening.budget, seed=seed)
                for concept, pictures in zip(concepts, references, strict=True):
                    done = len(revived) * budget.steps
                    revived.append(
                        _revived(
                            model, concept, pictures, budget, lambda n, f, d=done: report_progress(d + n, total, f)
                        )
                    )
        patch = _solved(model, concepts, revived, settings, size)
    patch.concepts = [c.as_dict() for c in concepts]
    patch.settings |= {"attack_rounds": hardening.rounds, "attack": asdict(hardening)}
    patch.figures["seconds"] = time.perf_counter() - started
    return patch


def _solved(
    model: ForgetModel,
    concepts: list[Concept],
    revived: list[Concept],
    settings: ClosedFormSettings,
    size: tuple[int, int, int] | None,
) -> ForgetPatch:
    """The closed form of the concepts and of what was found, which ends at the target: its vectors are no words to go further from."""
    aim = settings.target, settings.substitute
    pairs = template_pairs(concepts, *aim, settings.overshoot) + template_pairs(
        revived, *aim, max(0, settings.overshoot)
    )
    with torch.no_grad():
        return forget_closed_form(model, [*concepts, *revived], settings, pairs=pairs, size=size)


def _revived(
    model: ForgetModel,
    concept: Concept,
    references: References,
    budget: Budget,
    report_progress: Callable[[int, dict], bool | None],
) -> Concept:
    """The concept under vectors that a search finds, and under nothing else.

    In some of its templates: vectors that were found lie anywhere, and in all of them they would move the other words further.
    """
    first = concept.names()[0]
    settings = attack_settings(model, first.text, budget, first.word)
    templates = list(default_templates(concept.kind))
    revived = invert_concept(
        model, references, templates, settings, first.word, lambda done, total, figures: report_progress(done, figures)
    )
    return replace(
        concept, phrases=[], embedding=revived.word, templates=spread_templates(concept.templates, TEMPLATES_PER_NAME)
    )


def _patched(model: ForgetModel, patch: ForgetPatch) -> contextlib.AbstractContextManager[None]:
    """The model with the patch added to its layers' outputs while the context lasts; no weight is changed."""
    layers = {kohya_name(a.name, p): m for a in model.cross_attention() for p, m in a.projections.items()}
    return injected(layers, {name: _effect(f, model.device) for name, f in patch.factors.items()})


def _effect(factors: Factors, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """x -> dW x of a linear layer, in float32."""
    up, down = factors.up.float().to(device) * (factors.alpha / factors.rank), factors.down.float().to(device)
    return lambda x: x.to(down.dtype) @ down.T @ up.T
