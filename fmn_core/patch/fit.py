"""Whether a patch fits a model: every layer, and every layer's whole shape, or not at all."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ForgetError, plain_text
from .patch import ForgetPatch


def check_fit(patch: ForgetPatch, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ForgetError, with counts, unless all layers of a patch are in a model and have their whole shape there.

    A patch that is applied in part would seem to have worked. `shapes`: of the model's weights, by kohya name. A 1 x 1 kernel and a matrix
    are the same change.
    """
    lacking = [name for name in patch.factors if name not in shapes]
    other = [n for n, f in patch.factors.items() if n in shapes and not _same(f.shape, shapes[n])]
    if lacking or other:
        total = len(patch.factors)
        said = [
            f"{len(found)} of {total} layers {what}"
            for found, what in ((lacking, "that this model lacks"), (other, "of other shapes"))
            if found
        ]
        raise ForgetError(
            f"Expected a patch for this architecture, got one with {' and '.join(said)} ({base_name(patch)}). "
            "Choose a patch made for this family of models."
        )


def check_matched(patch: ForgetPatch, matched: int) -> None:
    """Raises ForgetError unless as many weights take the patch as it has layers: two names of one weight count once."""
    if matched != len(patch.factors):
        raise ForgetError(
            f"Expected {len(patch.factors)} layers of the patch to match, but {matched} did. Choose a patch made for this family of models."
        )


def base_name(patch: ForgetPatch) -> str:
    """The architecture that a patch says it was made on, in words."""
    return plain_text(patch.base.get("architecture") or "unknown base", 200)


def _same(change: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    return _matrix(change) == _matrix(weight)


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape
