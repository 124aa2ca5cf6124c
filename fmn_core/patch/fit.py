"""Checks that every layer of a patch fits a model."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ForgetError, plain_text
from .patch import ForgetPatch


def check_fit(patch: ForgetPatch, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks a patch against the weights of a model; a patch that is applied in part would seem to have worked.

    Parameters
    ----------
    patch
        The patch to apply.
    shapes
        Shapes of the model's weights, by kohya name. A 1 x 1 kernel and a matrix count as the same shape.

    Raises
    ------
    ForgetError
        Where the model lacks a layer of the patch, or has it in another shape. It gives the number of such layers.
    """
    missing = [name for name in patch.factors if name not in shapes]
    misshapen = [
        n for n, f in patch.factors.items() if n in shapes and _matrix_shape(f.shape) != _matrix_shape(shapes[n])
    ]
    if missing or misshapen:
        total = len(patch.factors)
        misfits = [
            f"{len(names)} of {total} layers {reason}"
            for names, reason in ((missing, "that this model lacks"), (misshapen, "of other shapes"))
            if names
        ]
        raise ForgetError(
            f"Expected a patch for this architecture, got one with {' and '.join(misfits)} ({base_architecture(patch)}). "
            "Choose a patch made for this family of models."
        )


def check_matched(patch: ForgetPatch, matched: int) -> None:
    """Raises ForgetError unless `matched`, the number of weights that take the patch, is that of its layers.

    Two names of one weight count once, so that a patch can match fewer weights than it has layers.
    """
    if matched != len(patch.factors):
        raise ForgetError(
            f"Expected {len(patch.factors)} layers of the patch to match, but {matched} did. Choose a patch made for this family of models."
        )


def base_architecture(patch: ForgetPatch) -> str:
    """The architecture that a patch was made on, as text that is safe to show."""
    return plain_text(patch.base.get("architecture") or "unknown base", 200)


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(n == 1 for n in shape[2:]) else shape
