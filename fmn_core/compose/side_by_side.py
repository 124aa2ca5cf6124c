"""Patches side by side in one file: each stays what it is, so that a gate can apply the ones that a prompt needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import ForgetError
from ..patch.parts import describe_part
from ..patch.patch import ForgetPatch
from .merge import MergeSettings, check_mergeable, concepts_of, merged_patch, split_parts, stacked


def side_by_side(patches: Sequence[ForgetPatch], settings: MergeSettings | None = None) -> ForgetPatch:
    """One patch of 2 to 100 that parts.parts_of takes apart again; as a whole it does what their plain sum does.

    Their ranks add up; no setting but the strengths counts. A patch that is side by side itself counts as its parts. Raises ForgetError
    on patches that do not say what they forget, and on those that do not fit each other. Source of applying each by its own prompts:
    SPM (Lyu et al., CVPR 2024), facilitated transport.
    """
    parts, strengths = split_parts(patches, check_mergeable(patches, (settings or MergeSettings()).strengths))
    for part in parts:
        concepts_of(part)
    return replace(_summed(parts, strengths, "side by side"), parts=[describe_part(p) for p in parts])


def sum_of_parts(parts: Sequence[ForgetPatch], strengths: Sequence[float]) -> ForgetPatch:
    """The sum of the parts, each at its strength; those at 0 are left out. Raises ForgetError where all are."""
    acting = [(p, s) for p, s in zip(parts, strengths) if s != 0]
    if not acting:
        raise ForgetError("Expected a part with a strength other than 0, got none. Leave the patch out.")
    return _summed([p for p, _ in acting], [s for _, s in acting], "sum")


def _summed(parts: Sequence[ForgetPatch], strengths: Sequence[float], method: str) -> ForgetPatch:
    """The parts' ranks one after another, nothing left out."""
    factors = {}
    for name in dict.fromkeys(n for p in parts for n in p.factors):
        factors[name] = stacked([(p.factors[name], s, None) for p, s in zip(parts, strengths) if name in p.factors])
    return merged_patch(parts, method, factors, {"strengths": list(strengths)}, {})
