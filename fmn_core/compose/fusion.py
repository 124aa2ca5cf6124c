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
from ..model.entries import CONTEXT, POOLED, Reads, reads_of
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
    """A patch to fuse, and what its metadata records.

    Attributes
    ----------
    moments, systems
        By what a layer reads, the moments of the patch's training, and the matrix (d, d) that recovers its right-hand side as dW @ system.
    """

    patch: ForgetPatch
    concepts: list[Concept]
    settings: ClosedFormSettings
    strength: float
    moments: dict[Reads, Moments]
    systems: dict[Reads, torch.Tensor]


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
    factors, figures = {}, {}
    for reads, halves in training_moments(text, list(concepts), joint, pairs, words).items():
        metric = torch.eye(len(halves[0].cc), dtype=torch.float64)
        ridge, weight, chosen = choose_weights(*halves, metric, preservation=joint.preservation)
        figures |= chosen if reads == CONTEXT else {"pooled": chosen}
        for name, fused in _fused_layers(
            sources, reads, (halves[0] + halves[1]).second_moment(ridge, weight), settings
        ):
            factors[name] = fused
            report_progress(len(patches), len(patches) + 1)
    report_progress(len(patches) + 1, len(patches) + 1)
    figures |= {"effect_kept": [1 - _relative_distance(s, factors) for s in sources]}
    recorded = {k: v for k, v in asdict(joint).items() if k not in ("rank", "tolerance")}
    recorded |= {"strengths": strengths, "kept_words": words}
    return merged_patch(patches, "fusion", factors, recorded, figures)


def _fused_layers(
    sources: list[_Source], reads: Reads, system: torch.Tensor, settings: MergeSettings
) -> Iterator[tuple[str, Factors]]:
    """Fuses one layer that reads the same after another, given M (d, d) of all patches; yields kohya name and factors."""
    total = sum(s.moments[reads].sources for s in sources)
    inverse, root = torch.linalg.inv(system), matrix_root(system)
    matrices = [s.systems[reads] @ inverse * (s.moments[reads].sources / total) for s in sources]
    for name in dict.fromkeys(n for s in sources for n in s.patch.factors if reads_of(n) == reads):
        width = next(s.patch.factors[name].down.shape[1] for s in sources if name in s.patch.factors)
        terms = [
            (s.patch.factors[name], s.strength, _widened(m, width))
            for s, m in zip(sources, matrices)
            if name in s.patch.factors
        ]
        factors, _ = reduce_rank(stack_factors(terms), settings.rank, settings.tolerance, _widened(root, width))
        yield name, factors


def _widened(matrix: torch.Tensor, width: int) -> torch.Tensor:
    """A matrix (d, d) on the first d of `width` columns, 0 on those of a layer that do not read text."""
    extra = width - len(matrix)
    return torch.nn.functional.pad(matrix, (0, extra, 0, extra))


def _source(text: TextModel, patch: ForgetPatch, strength: float) -> _Source:
    concepts = recorded_concepts(patch)
    check_concepts(text, concepts)
    _check_layers(text, patch)
    settings = recorded_settings(patch)
    halves = training_moments(text, concepts, settings, recorded_pairs(patch), recorded_words(patch))
    moments: dict[Reads, Moments] = {reads: first + second for reads, (first, second) in halves.items()}
    systems: dict[Reads, torch.Tensor] = {}
    for reads, sums in moments.items():
        weights = recorded_weights(patch, reads)
        systems[reads] = sums.second_moment(*weights) if weights else sums.cc / max(1, sums.sources)
    return _Source(patch, concepts, settings, strength, moments, systems)


def _check_layers(text: TextModel, patch: ForgetPatch) -> None:
    """Raises ForgetError on a layer that does not read what the text encoders give."""
    empty = text.encode([""])[0]
    width, pooled = empty.context.shape[1], 0 if empty.pooled is None else empty.pooled.shape[1]
    for name, f in patch.factors.items():
        columns = f.down.shape[1] if f.down.ndim == 2 else 0
        fits = 0 < pooled <= columns if reads_of(name) == POOLED else columns == width
        if not fits:
            raise ForgetError(
                f"Expected patches of what reads the text of a CLIP of width {width}, got a change of {name}. "
                "Merge it by sum, or connect the CLIP of its base model."
            )


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
        rows = _widened(source.moments[reads_of(name)].cc, f.down.shape[1])
        distance += mean_square_change([before, merged], rows)
        total += mean_square_change([before], rows)
    return math.sqrt(max(0.0, distance) / max(total, 1e-300))
