"""The change that merged patches cause to the preserve set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..closed_form.settings import ClosedFormSettings
from ..concepts.concept import concept_from_dict
from ..concepts.limits import MOST_LINES
from ..model.entries import CONTEXT
from ..model.protocol import TextModel
from ..patch.factors import mean_square_change
from ..patch.patch import ForgetPatch
from .merge import linear_factors
from .recorded import recorded_concepts, recorded_pairs, recorded_settings, training_moments


def preserve_cost(text: TextModel, patches: Sequence[ForgetPatch], merged: Sequence[ForgetPatch]) -> list[float]:
    """Measures how far merged patches move the preserve set, relative to the concepts.

    Parameters
    ----------
    text
        The text encoders of the base model.
    patches
        The patches that were merged. Those whose metadata does not name all their concepts are left out.
    merged
        The merges to compare.

    Returns
    -------
    |dW P| / |dW C|, root mean squares over rows and layers, for each merge: P are the rows of everyday captions and of the patches'
    preserve prompts, C those of their concepts. Empty where all patches are left out.
    """
    described = [p for p in patches if p.concepts and all(concept_from_dict(c) is not None for c in p.concepts)]
    if not described:
        return []
    lines = list(dict.fromkeys(line for p in described for line in recorded_settings(p).preserve_prompts))[:MOST_LINES]
    settings = ClosedFormSettings(preserve_prompts=lines, imagined_words=0)
    concepts = [c for p in described for c in recorded_concepts(p)]
    pairs = [pair for p in described for pair in recorded_pairs(p)]
    fit_half, held_out_half = training_moments(text, concepts, settings, pairs)[CONTEXT]
    moments = fit_half + held_out_half
    preserve, concept = moments.pp / moments.preserved, moments.cc / moments.sources
    return [_output_change(m, preserve) / max(_output_change(m, concept), 1e-30) for m in merged]


def _output_change(patch: ForgetPatch, moment: torch.Tensor) -> float:
    """Root of the sum over the layers of E |dW x|^2, for inputs x of a second moment (d, d)."""
    width, total = len(moment), 0.0
    for f in patch.factors.values():
        if f.down.ndim == 2 and f.down.shape[1] == width:
            total += mean_square_change([linear_factors(f)], moment)
    return math.sqrt(max(0.0, total))
