"""What merged patches cost the preserve set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..closed_form.settings import ClosedFormSettings
from ..concepts.concept import concept_from_dict
from ..concepts.limits import MOST_LINES
from ..model.protocol import TextModel
from ..patch.factors import mean_square_change
from ..patch.patch import ForgetPatch
from .merge import concepts_of, linear_factors, moment_halves, pairs_of, recorded_settings


def preserve_cost(text: TextModel, patches: Sequence[ForgetPatch], merged: Sequence[ForgetPatch]) -> list[float]:
    """For each merged patch, |dW P| / |dW C|, root mean squares: how far preserve prompts move against the concepts.

    P: tokens of everyday captions and the patches' preserve prompts; C: the concepts' tokens, of all patches whose metadata
    says enough together. Empty when there is no such patch.
    """
    named = [p for p in patches if p.concepts and all(concept_from_dict(c) is not None for c in p.concepts)]
    if not named:
        return []
    lines = list(dict.fromkeys(line for p in named for line in recorded_settings(p).preserve_prompts))[:MOST_LINES]
    settings = ClosedFormSettings(preserve_prompts=lines, imagined_words=0)
    concepts, pairs = [c for p in named for c in concepts_of(p)], [pair for p in named for pair in pairs_of(p)]
    first, second = moment_halves(text, concepts, settings, pairs)
    moments = first + second
    return [
        _moved(m, moments.pp / moments.preserved) / max(_moved(m, moments.cc / moments.sources), 1e-30) for m in merged
    ]


def _moved(patch: ForgetPatch, moment: torch.Tensor) -> float:
    """Root mean square of |dW x| over the layers, x with this second moment."""
    width, total = len(moment), 0.0
    for f in patch.factors.values():
        if f.down.ndim == 2 and f.down.shape[1] == width:
            total += mean_square_change([linear_factors(f)], moment)
    return math.sqrt(max(0.0, total))
