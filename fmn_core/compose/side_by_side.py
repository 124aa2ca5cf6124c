"""Patches side by side in one file, which a gate can still apply one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import ForgetError
from ..patch.parts import describe_part
from ..patch.patch import ForgetPatch
from .merge import MergeSettings, check_mergeable, merged_patch, split_parts, stack_factors
from .recorded import recorded_concepts


def side_by_side(patches: Sequence[ForgetPatch], settings: MergeSettings | None = None) -> ForgetPatch:
    """Joins 2 to MOST_PATCHES patches into one with as many parts, which parts_of splits again.

    As a whole, the patch has the effect of their plain sum; its ranks are the sums of theirs. Of the settings, only the strengths are
    used. A patch that has parts counts as these.

    Raises
    ------
    ForgetError
        On patches that do not name their concepts, and on patches that cannot be merged, see check_mergeable.

    Notes
    -----
    A gate applies each part to prompts near its own concepts, as the facilitated transport of SPM does (Lyu et al., CVPR 2024).
    """
    parts, strengths = split_parts(patches, check_mergeable(patches, (settings or MergeSettings()).strengths))
    for part in parts:
        recorded_concepts(part)
    return replace(_exact_sum(parts, strengths, "side by side"), parts=[describe_part(p) for p in parts])


def sum_of_parts(parts: Sequence[ForgetPatch], strengths: Sequence[float]) -> ForgetPatch:
    """Sums parts at their strengths, without those at 0; raises ForgetError where all are at 0."""
    acting = [(p, s) for p, s in zip(parts, strengths) if s != 0]
    if not acting:
        raise ForgetError("Expected a part with a strength other than 0, got none. Leave the patch out.")
    return _exact_sum([p for p, _ in acting], [s for _, s in acting], "sum")


def _exact_sum(parts: Sequence[ForgetPatch], strengths: Sequence[float], method: str) -> ForgetPatch:
    """The exact sum of the parts; their ranks add up."""
    factors = {}
    for name in dict.fromkeys(n for p in parts for n in p.factors):
        factors[name] = stack_factors(
            [(p.factors[name], s, None) for p, s in zip(parts, strengths) if name in p.factors]
        )
    return merged_patch(parts, method, factors, {"strengths": list(strengths)}, {})
