"""Forgetting in closed form: from concepts to a patch, by target pairs, their moments and one solve."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from ..concepts.concept import Concept, check_concepts
from ..concepts.preserve import preserve_groups
from ..model.protocol import ForgetModel
from ..patch.figures import rounded
from ..patch.patch import ForgetPatch, fingerprint
from .collect import collect_moments
from .settings import PRECISIONS, ClosedFormSettings
from .solve import solve_factors
from .targets import TargetPair, check_target, template_pairs


def forget_closed_form(
    model: ForgetModel,
    concepts: list[Concept],
    settings: ClosedFormSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
    pairs: list[TargetPair] | None = None,
) -> ForgetPatch:
    """Solves for a patch that makes the model fall back on what a prompt says without the phrase.

    `pairs` replaces what should act like what (see template_pairs). `progress(done, total, figures)` is called between the
    stages and may raise to interrupt. `size` (C, h, w): latents in which a logit shift looks for its direction; the UNet runs, without
    gradients, for nothing else, and must then be ready to denoise. Raises ForgetError on input that cannot be used. Source: method of UCE
    with FMN's "natural fallback" as target.
    """
    settings = settings or ClosedFormSettings()
    check_target(settings.target, settings.substitute)
    report_progress = progress or (lambda done, total, figures: None)
    started = time.perf_counter()
    report_progress(0, 4, {})
    check_concepts(model, concepts)
    pairs = _pairs_of(concepts, settings) if pairs is None else pairs
    preserve = preserve_groups(model, concepts, settings.preserve_prompts, settings.use_everyday_captions)
    dtype = PRECISIONS[settings.precision]
    device = model.device if dtype == torch.float32 else "cpu"
    halves = collect_moments(model, concepts, preserve, settings.imagined_words, pairs, dtype, device)
    report_progress(1, 4, {})
    rank = settings.rank * len(concepts)
    factors, figures = solve_factors(model, halves, settings, rank, lambda figures: report_progress(2, 4, figures))
    figures["seconds"] = time.perf_counter() - started
    report_progress(4, 4, figures)
    described = {"method": "closed form", **asdict(settings)}
    return ForgetPatch(factors, [c.as_dict() for c in concepts], fingerprint(model), described, rounded(figures))


def _pairs_of(concepts: list[Concept], settings: ClosedFormSettings) -> list[TargetPair]:
    return template_pairs(concepts, settings.target, settings.substitute, settings.overshoot)
