"""Merging patches by a plain sum, and what all ways of merging share: settings, checks, parts, stacked factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..concepts.limits import MOST_NAMES
from ..errors import ForgetError
from ..options import option, options
from ..patch.figures import rounded
from ..patch.parts import parts_of
from ..patch.patch import Factors, ForgetPatch
from ..patch.shrink import reduce_rank

MOST_PATCHES = 100


# Rank of a merge whose file should stay small; the default of MergeSettings loses less.
COMPACT_RANK = 64


@options
class MergeSettings:
    """Settings of a merge. A sum does not use `preservation`; patches side by side use the strengths only."""

    strengths: list[float] = option(default=list, help="Strength of each patch, in their order; none: 1 each.")
    rank: int = option(
        default=256,
        help="Upper bound of the merged patch's LoRA rank; side by side the ranks add up.",
        minimum=1,
        maximum=1024,
    )
    tolerance: float = option(
        default=1e-5,
        help="Share of energy that may be left behind where a lower rank will do.",
        minimum=0.0,
        maximum=0.5,
        step=0.001,
    )
    preservation: float = option(
        default=1.0,
        help="How much keeping counts against forgetting; 1 is balanced, more keeps more.",
        minimum=0.0,
        maximum=100.0,
        step=0.05,
    )


def check_mergeable(patches: Sequence[ForgetPatch], strengths: Sequence[float]) -> list[float]:
    """Checks that patches can be merged, and returns one strength for each; 1 each where none are given.

    Raises
    ------
    ForgetError
        On fewer than 2 or more than MOST_PATCHES patches, a wrong number of strengths, one that is not finite, and patches that have a
        layer in different shapes.
    """
    if not 2 <= len(patches) <= MOST_PATCHES:
        raise ForgetError(f"Expected 2 to {MOST_PATCHES} patches to merge, got {len(patches)}. Choose more, or fewer.")
    strengths = list(strengths) or [1.0] * len(patches)
    if len(strengths) != len(patches) or not all(math.isfinite(s) for s in strengths):
        raise ForgetError(
            f"Expected {len(patches)} strengths, one for each patch, got {len(strengths)}. Leave them out for 1 each."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for number, patch in enumerate(patches, 1):
        for name, f in patch.factors.items():
            if shapes.setdefault(name, f.shape) != f.shape:
                raise ForgetError(
                    f"Expected patches for one architecture, got layer {name} of size {list(shapes[name])} and, in patch "
                    f"{number}, {list(f.shape)}. Merge patches of the same base model."
                )
    return strengths


def split_parts(patches: Sequence[ForgetPatch], strengths: Sequence[float]) -> tuple[list[ForgetPatch], list[float]]:
    """Splits every patch into its parts, and gives each part its patch's strength.

    Raises
    ------
    ForgetError
        On more than MOST_PATCHES parts.
    """
    parts = [(part, s) for patch, s in zip(patches, strengths) for part in parts_of(patch)]
    if len(parts) > MOST_PATCHES:
        raise ForgetError(
            f"Expected at most {MOST_PATCHES} patches, those side by side counted apart, got {len(parts)}. Leave some out."
        )
    return [p for p, _ in parts], [s for _, s in parts]


def stack_factors(terms: Sequence[tuple[Factors, float, torch.Tensor | None]]) -> Factors:
    """Stacks the factors of several changes of a layer, so that the ranks add up.

    Parameters
    ----------
    terms
        The factors of dW_i, its strength s_i, and a matrix A_i (in, in), or None for the identity.

    Returns
    -------
    The exact factors of sum_i s_i dW_i A_i, with alpha = rank.
    """
    ups = [f.up.double().flatten(1) for f, _, _ in terms]
    downs = []
    for f, strength, matrix in terms:
        down = f.down.double().flatten(1) * (strength * f.alpha / f.rank)
        downs.append(down if matrix is None else down @ matrix)
    up, down = torch.cat(ups, 1), torch.cat(downs)
    first = terms[0][0]
    kernel = first.down.shape[1:]
    up = up.reshape(*up.shape, *first.up.shape[2:])
    return Factors(up.float(), down.float().reshape(-1, *kernel), float(down.shape[0]))


def linear_factors(f: Factors, strength: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """up (out, r) and down (r, in) of a linear layer, whose product is strength * dW."""
    return f.up, f.down.double() * (strength * f.alpha / f.rank)


def sum_patches(
    patches: Sequence[ForgetPatch],
    settings: MergeSettings | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ForgetPatch:
    """Merges patches by their weighted sum, which keeps their joint effect exactly, interference included.

    Parameters
    ----------
    patches
        2 to MOST_PATCHES patches or other LoRAs, with metadata or without.
    settings
        Strengths, largest rank and tolerance.
    progress
        Called with the number of merged layers and of all layers.

    Raises
    ------
    ForgetError
        On patches that cannot be merged, see check_mergeable.
    """
    settings = settings or MergeSettings()
    strengths = check_mergeable(patches, settings.strengths)
    factors, names = {}, list(dict.fromkeys(n for p in patches for n in p.factors))
    for done, name in enumerate(names, 1):
        terms = [(p.factors[name], s, None) for p, s in zip(patches, strengths) if name in p.factors]
        factors[name], _ = reduce_rank(stack_factors(terms), settings.rank, settings.tolerance)
        progress(done, len(names))
    return merged_patch(patches, "sum", factors, {"strengths": strengths}, {})


def merged_patch(
    patches: Sequence[ForgetPatch],
    method: str,
    factors: dict[str, Factors],
    settings: dict[str, Any],
    figures: dict[str, Any],
) -> ForgetPatch:
    """Builds the patch of merged factors, with the concepts of all patches and the first known fingerprint.

    Raises
    ------
    ForgetError
        On more than MOST_NAMES phrases.
    """
    concepts = [c for p in patches for c in p.concepts]
    count = sum(max(1, len(c["phrases"])) for c in concepts)
    if count > MOST_NAMES:
        raise ForgetError(
            f"Expected patches of at most {MOST_NAMES:,} phrases together, got {count:,}. Merge fewer patches into one file."
        )
    base = next((p.base for p in patches if p.base), {})
    return ForgetPatch(factors, concepts, base, {"method": method, **settings}, rounded(figures))
