"""Merging patches by exact fusion, which keeps each patch's effect on its own concept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

import torch

from ..closed_form.moments import Moments
from ..closed_form.settings import ClosedFormSettings
from ..closed_form.weight_choice import choose_weights
from ..concepts.concept import Concept, chain, check_concepts
from ..concepts.limits import check_lines
from ..errors import ForgetError
from ..model.encoding_cache import MemoizedEncoding
from ..model.protocol import TextModel
from ..patch.factors import matrix_root, mean_square_change
from ..patch.patch import Factors, ForgetPatch
from ..patch.shrink import reduce_rank
from .merge import MergeSettings, check_mergeable, linear_factors, merged_patch, split_parts, stack_factors
from .recorded import (
    recorded_concepts,
    recorded_pairs,
    recorded_settings,
    recorded_weights,
    recorded_words,
    training_moments,
)


@dataclass
class _Source:
    """A patch to fuse, what its metadata records, and the system (d, d) that recovers its right-hand side as dW @ system."""

    patch: ForgetPatch
    concepts: list[Concept]
    settings: ClosedFormSettings
    strength: float
    moments: Moments
    system: torch.Tensor


def fuse_patches(
    text: TextModel,
    patches: Sequence[ForgetPatch],
    settings: MergeSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ForgetPatch:
    """Merges patches into one that does to each concept what its own patch does, and keeps all preserve sets.

    Parameters
    ----------
    text
        The text encoders of the patches' base model.
    patches
        2 to MOST_PATCHES patches with metadata. The parts of a patch are fused as patches of their own.
    settings
        Settings of the merge.
    progress
        Called with the number of finished steps and of all steps, one for each patch and one for the layers.

    Raises
    ------
    ForgetError
        On patches without metadata, and on patches that do not fit each other or the text encoders.

    Notes
    -----
    The closed-form fusion of MACE (Lu et al., CVPR 2024, section 3.4) with the systems of UCE. The right-hand side of patch i's solve
    is dW_i M_i, where M_i is computed again from its metadata. The fused change is sum_i (n_i / n) dW_i M_i M^-1; M is the system of
    all concepts and preserve sets, n_i the number of rows of patch i, and n their sum. Of a patch trained by gradient, the effect on its
    concepts' rows is kept: C_i C_i^T / n_i takes the place of M_i.
    """
    settings = settings or MergeSettings()
    patches, strengths = split_parts(patches, check_mergeable(patches, settings.strengths))
    report_progress, text = progress or (lambda done, total: None), cast(TextModel, MemoizedEncoding(text))
    sources = []
    for number, (patch, strength) in enumerate(zip(patches, strengths)):
        report_progress(number, len(patches) + 1)
        sources.append(_source(text, patch, strength))
    concepts: tuple[Concept, ...] = ()
    for source in sources:
        concepts = chain(concepts, source.concepts)
    joint = _joint_settings(sources, settings)
    pairs = [pair for patch in patches for pair in recorded_pairs(patch)]
    words = list(dict.fromkeys(word for patch in patches for word in recorded_words(patch)))
    fit_half, held_out_half = training_moments(text, list(concepts), joint, pairs, words)
    metric = torch.eye(len(fit_half.cc), dtype=torch.float64)
    ridge, weight, figures = choose_weights(fit_half, held_out_half, metric, preservation=joint.preservation)
    system = (fit_half + held_out_half).second_moment(ridge, weight)
    factors = {}
    for name, fused in _fused_layers(sources, system, settings):
        factors[name] = fused
        report_progress(len(patches), len(patches) + 1)
    report_progress(len(patches) + 1, len(patches) + 1)
    figures |= {"effect_kept": [1 - _relative_distance(s, factors) for s in sources]}
    recorded = {k: v for k, v in asdict(joint).items() if k not in ("rank", "tolerance")}
    recorded |= {"strengths": strengths, "kept_words": words}
    return merged_patch(patches, "fusion", factors, recorded, figures)


def _fused_layers(
    sources: list[_Source], system: torch.Tensor, settings: MergeSettings
) -> Iterator[tuple[str, Factors]]:
    """Fuses one layer after another, given M (d, d) of all patches; yields kohya name and factors."""
    total = sum(s.moments.sources for s in sources)
    inverse, root = torch.linalg.inv(system), matrix_root(system)
    matrices = [s.system @ inverse * (s.moments.sources / total) for s in sources]
    for name in dict.fromkeys(n for s in sources for n in s.patch.factors):
        terms = [(s.patch.factors[name], s.strength, m) for s, m in zip(sources, matrices) if name in s.patch.factors]
        factors, _ = reduce_rank(stack_factors(terms), settings.rank, settings.tolerance, root)
        yield name, factors


def _source(text: TextModel, patch: ForgetPatch, strength: float) -> _Source:
    concepts = recorded_concepts(patch)
    check_concepts(text, concepts)
    width = text.encode([""])[0].context.shape[1]
    misfits = [n for n, f in patch.factors.items() if f.down.ndim != 2 or f.down.shape[1] != width]
    if misfits:
        raise ForgetError(
            f"Expected patches of cross-attention keys and values for a CLIP of width {width}, got a change of {misfits[0]}. "
            "Merge it by sum, or connect the CLIP of its base model."
        )
    settings = recorded_settings(patch)
    fit_half, held_out_half = training_moments(text, concepts, settings, recorded_pairs(patch), recorded_words(patch))
    moments = fit_half + held_out_half
    weights = recorded_weights(patch)
    system = moments.second_moment(*weights) if weights else moments.cc / max(1, moments.sources)
    return _Source(patch, concepts, settings, strength, moments, system)


def _joint_settings(sources: list[_Source], settings: MergeSettings) -> ClosedFormSettings:
    """The settings of one training on all the concepts, with the preserve sets of all patches."""
    lines = list(dict.fromkeys(line for s in sources for line in s.settings.preserve_prompts))
    check_lines(lines, "preserve prompts of all patches together")
    return replace(
        ClosedFormSettings(),
        preservation=settings.preservation,
        preserve_prompts=lines,
        use_everyday_captions=any(s.settings.use_everyday_captions for s in sources),
        imagined_words=max(s.settings.imagined_words for s in sources),
    )


def _relative_distance(source: _Source, factors: dict[str, Factors]) -> float:
    """|(dW - dW_i) C_i| / |dW_i C_i|: how far the fused change is from that of patch i, on the rows of its concepts."""
    distance = total = 0.0
    for name, f in source.patch.factors.items():
        before, merged = linear_factors(f, source.strength), linear_factors(factors[name], -1.0)
        distance += mean_square_change([before, merged], source.moments.cc)
        total += mean_square_change([before], source.moments.cc)
    return math.sqrt(max(0.0, distance) / max(total, 1e-300))
