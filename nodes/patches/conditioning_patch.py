"""Inputs, outputs and hooks of the nodes that put a patch on conditionings."""

from __future__ import annotations

from typing import Any

from ...fmn_core.compose.side_by_side import sum_of_parts
from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..host.node_api import io
from ..ui import patch_source
from ..ui.shared_inputs import percent_input


def positive_input() -> Any:
    """The positive conditioning."""
    return io.Conditioning.Input("positive", tooltip="The prompt's conditioning; several combined are fine.")


def schedule_inputs() -> list[Any]:
    """Inputs for the strength of the patch and for the part of the sampling in which it acts."""
    return [
        io.Float.Input(
            "strength", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="Strength of the patch where it acts."
        ),
        percent_input("start_percent", 0.0, "Where in sampling the patch begins; 0 is the first step."),
        percent_input("end_percent", 1.0, "Where in sampling it ends; 1 is the last step."),
    ]


def optional_inputs() -> list[Any]:
    """Inputs for a connected patch, the negative conditioning and the host's keyframes."""
    return [
        patch_source.patch_input(),
        io.Conditioning.Input("negative", optional=True, tooltip="The negative conditioning, treated likewise."),
        io.HookKeyframes.Input(
            "keyframes", optional=True, tooltip="Strength over the sampling, in place of start and end."
        ),
    ]


def outputs() -> list[Any]:
    """Both conditionings and a report."""
    return [
        io.Conditioning.Output(display_name="positive", tooltip="The conditioning that carries the patch."),
        io.Conditioning.Output(display_name="negative", tooltip="The negative conditioning; empty when none came in."),
        io.String.Output(display_name="report", tooltip="How strongly the patch acts on every conditioning, and when."),
    ]


class ConditioningHooks:
    """The host's hooks that put the parts of a patch on conditionings.

    Conditionings of equal strengths share a group of hooks, because the host evaluates those in one pass of the model.

    Parameters
    ----------
    parts
        The patches that stand side by side in one file, or the one patch.
    strength
        Multiplies the strength of every part.
    start_percent, end_percent
        Part of the sampling in which the patch acts, 0..1.
    keyframes
        The host's HookKeyframes, which replace start and end; None: no keyframes.

    Raises
    ------
    ForgetError
        If the start is not before the end.
    """

    def __init__(
        self, parts: list[ForgetPatch], strength: float, start_percent: float, end_percent: float, keyframes: Any = None
    ):
        if not start_percent < end_percent:
            raise ForgetError(
                f"Expected a start before the end, got {start_percent:g} and {end_percent:g}. Choose a start_percent below end_percent."
            )
        self.parts, self.strength = parts, strength
        self.start, self.end, self.keyframes = start_percent, end_percent, keyframes
        self._hooks_by_strengths: dict[tuple[float, ...], Any] = {}

    def attach(self, cond: Any, part_strengths: tuple[float, ...]) -> Any:
        """Adds the hooks of all parts to a conditioning; returns it unchanged where all strengths are 0."""
        if self.strength == 0 or not any(part_strengths):
            return cond
        host.check_context_width(self.parts[0], cond[0].shape[-1])
        if part_strengths not in self._hooks_by_strengths:
            self._hooks_by_strengths[part_strengths] = self._hooks(part_strengths)
        return host.add_hooks(cond, self._hooks_by_strengths[part_strengths])

    def _hooks(self, part_strengths: tuple[float, ...]) -> Any:
        schedule = self.start, self.end, self.keyframes
        if len(self.parts) == 1:
            return host.patch_hooks(self.parts[0], self.strength * part_strengths[0], *schedule)
        return host.patch_hooks(sum_of_parts(self.parts, part_strengths), self.strength, *schedule)

    def schedule_line(self) -> str:
        """One line for the report: the strength, and when the patch acts."""
        if self.keyframes is not None:
            return f"strength {self.strength:g}, times that of the keyframes"
        return f"strength {self.strength:g}, from {self.start:.0%} to {self.end:.0%} of the sampling"
