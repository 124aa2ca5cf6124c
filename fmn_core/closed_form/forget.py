"""Forgets concepts in closed form: target pairs, their moments, one solve, and the patch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

import torch

from ..concepts.concept import Concept, check_concepts
from ..concepts.preserve import longer_names, preserve_groups
from ..model.encoding_cache import MemoizedEncoding
from ..model.entries import CONTEXT, POOLED, Reads, chosen_entries
from ..model.protocol import ForgetModel
from ..patch.figures import rounded
from ..patch.patch import Factors, ForgetPatch, fingerprint
from .collect import EncodedSolve, Halves, encode_solve, pooled_moments, solve_rows
from .settings import FORGOTTEN, IGNORED, PRECISIONS, ClosedFormSettings
from .shortfall import UnseenContext, unseen_contexts, unseen_pooled, unseen_rows
from .solve import solve_factors
from .targets import TargetPair, check_target, template_pairs
from .vocabulary import related_words, with_synonyms


def forget_closed_form(
    model: ForgetModel,
    concepts: list[Concept],
    settings: ClosedFormSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
    pairs: list[TargetPair] | None = None,
) -> ForgetPatch:
    """Solves for a patch with which prompts that name a concept act as they would without its phrase.

    Parameters
    ----------
    progress
        Called as `progress(done, total, figures)` between the stages; may raise to interrupt.
    pairs
        Target pairs in place of those of `template_pairs`.

    Raises
    ------
    ForgetError
        On settings or concepts that the model cannot be solved for.

    Notes
    -----
    The system of UCE (Gandikota et al., WACV 2024, eq. 7) with the ablated prompt, the natural fallback of Forget-Me-Not, as target.
    The UNet does not run.
    """
    settings = settings or ClosedFormSettings()
    check_target(settings.target, settings.substitute)
    report_progress = progress or (lambda done, total, figures: None)
    started = time.perf_counter()
    report_progress(0, 4, {})
    check_concepts(model, concepts)
    # Words of the vocabulary are encoded once, to be compared and to be preserved.
    memory = MemoizedEncoding(model)
    text = cast(ForgetModel, memory)
    related = related_words(text, concepts, settings.vocabulary_words)
    if pairs is None and settings.synonyms == FORGOTTEN:
        concepts = with_synonyms(concepts, related)
    pairs = _pairs_of(concepts, settings) if pairs is None else pairs
    words = related.kept()
    preserve = preserve_groups(text, concepts, settings.preserve_prompts, settings.use_everyday_captions, words)
    dtype = PRECISIONS[settings.precision]
    device = model.device if dtype == torch.float32 else "cpu"
    encoded = encode_solve(text, concepts, preserve, settings.imagined_words, pairs)
    unseen = unseen_contexts(text, concepts, settings.target, settings.overshoot)
    moments = _moments(text, encoded, unseen or [], dtype, device)
    encoded_in = time.perf_counter() - started
    report_progress(1, 4, {})
    factors, figures = _solved(model, moments, unseen, settings, len(concepts), report_progress)
    figures["seconds"] = time.perf_counter() - started
    figures["encoded"] = {"prompts": memory.prompts, "tokens": memory.tokens, "seconds": encoded_in}
    if settings.synonyms != IGNORED:
        figures |= related.as_figures()
    if kept_names := longer_names(model, concepts, settings.preserve_prompts):
        figures["kept_names"] = kept_names
    report_progress(4, 4, figures)
    described = {"method": "closed form", **asdict(settings), "kept_words": words}
    return ForgetPatch(factors, [c.as_dict() for c in concepts], fingerprint(model), described, rounded(figures))


def _moments(
    text: ForgetModel, encoded: EncodedSolve, unseen: list[UnseenContext], dtype: torch.dtype, device: Any
) -> dict[Reads, Halves | None]:
    """Moments of what each kind of text entry reads; of rows in a smaller space where that will do, see `row_space`."""
    rows = solve_rows(text, encoded)
    basis = rows.space([prompt for u in unseen for prompt in (u.full, u.bare)])
    return {
        CONTEXT: rows.moments(dtype, device, basis),
        POOLED: pooled_moments(encoded, dtype, device),
    }


def _solved(
    model: ForgetModel,
    moments: dict[Reads, Halves | None],
    unseen: list[UnseenContext] | None,
    settings: ClosedFormSettings,
    concepts: int,
    report_progress: Callable[[int, int, dict], None],
) -> tuple[dict[str, Factors], dict]:
    """One solve for each kind of text that the model's entries read; figures of the pooled one are under "pooled"."""
    factors, figures = {}, {}
    for reads, halves in moments.items():
        entries = chosen_entries(model, reads, settings.train)
        if entries and halves is not None:
            unseen_moments = unseen_rows if reads == CONTEXT else unseen_pooled
            beyond = None if unseen is None else unseen_moments(unseen, halves[0])
            on_weights = (lambda chosen: report_progress(2, 4, chosen)) if reads == CONTEXT else (lambda chosen: None)
            more, about = solve_factors(model, entries, halves, settings, concepts, on_weights, beyond)
            factors |= more
            layers = figures.get("layers", {}) | about.pop("layers")
            figures |= {"layers": layers} | (about if reads == CONTEXT else {"pooled": about})
    # diffusers 0.35 scales a layer wrongly whose rank is not that of the others.
    common = max(f.rank for f in factors.values())
    return {name: f if f.rank == common else f.of_rank(common) for name, f in factors.items()}, figures


def _pairs_of(concepts: list[Concept], settings: ClosedFormSettings) -> list[TargetPair]:
    return template_pairs(concepts, settings.target, settings.substitute, settings.overshoot)
