"""Gated and scheduled patches: a patch on the conditionings that need it, for the part of the sampling that needs it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from ...fmn_core.compose.gate import CURVES, Background, ConceptGate, GateSettings
from ...fmn_core.compose.merge import concepts_of
from ...fmn_core.compose.side_by_side import sum_of_parts
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.encoding_cache import EncodedOnce
from ...fmn_core.patch.parts import parts_of
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..adapter.chunk_memory import TOKENS_KEY, encoded_chunks
from ..adapter.references import with_cache
from ..adapter.text import ComfyText
from ..host.node_api import CATEGORY, io
from ..ui import patch_source, reports

_BOTH = "both"


def _positive() -> Any:
    return io.Conditioning.Input("positive", tooltip="The prompt's conditioning; several combined are fine.")


def _when() -> list[Any]:
    percent = {"min": 0.0, "max": 1.0, "step": 0.01}
    return [
        io.Float.Input(
            "strength", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="Strength of the patch where it acts."
        ),
        io.Float.Input(
            "start_percent", default=0.0, **percent, tooltip="Where in sampling the patch begins; 0 is the first step."
        ),
        io.Float.Input("end_percent", default=1.0, **percent, tooltip="Where in sampling it ends; 1 is the last step."),
    ]


def _optional() -> list[Any]:
    return [
        patch_source.connection(),
        io.Conditioning.Input("negative", optional=True, tooltip="The negative conditioning, treated likewise."),
        io.HookKeyframes.Input(
            "keyframes", optional=True, tooltip="Strength over the sampling, in place of start and end."
        ),
    ]


def _outputs() -> list[Any]:
    return [
        io.Conditioning.Output(display_name="positive", tooltip="The conditioning that carries the patch."),
        io.Conditioning.Output(display_name="negative", tooltip="The negative conditioning; empty when none came in."),
        io.String.Output(display_name="report", tooltip="How strongly the patch acts on every conditioning, and when."),
    ]


class GatedForgetPatch(patch_source.PatchFileNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_GatedForgetPatch",
            display_name="Gated Forget Patch",
            category=CATEGORY,
            description="Applies a patch only to prompts that are near what it forgets: other prompts give the very same "
            "picture as without it. Of patches merged side by side it applies those that a prompt is near. Works on conditionings; the MODEL stays as it is.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP that encoded the prompts."),
                _positive(),
                *patch_source.inputs(),
                *_when(),
                io.Float.Input(
                    "threshold",
                    default=GateSettings.threshold,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Similarity of prompt and concept up to which the patch stays off. 0: half way from prompts without the concept to those "
                    "that name it, as this CLIP encodes them; the report says which.",
                ),
                io.Combo.Input(
                    "curve",
                    options=list(CURVES),
                    default=GateSettings.curve,
                    tooltip="From the threshold on: full strength at once, or growing to it, straight or smoothly.",
                ),
                *_optional(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls, clip, positive, patch_file, threshold, curve, forget_patch=None, negative=None, **when
    ) -> io.NodeOutput:
        GateSettings(threshold, curve).strength(0.0)
        patch = patch_source.chosen(patch_file, forget_patch)
        parts = parts_of(patch)
        gates = _Gates(with_cache(ComfyText(clip)), parts, GateSettings(threshold, curve))
        hooks = _Hooks(parts, **when)
        lines = [f"forgets: {reports.forgotten(patch)}", gates.thresholds()]
        both = []
        for name, conditioning in (("positive", positive), ("negative", negative)):
            found = []
            for number, cond in enumerate(conditioning or [], 1):
                conds, said = _gated(gates, hooks, cond)
                found += conds
                lines.append(f"{name} {number}: {said}")
            both.append(found)
        report = "\n".join([*lines, hooks.when()])
        return io.NodeOutput(*both, report)


class ScheduleForgetPatch(patch_source.PatchFileNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ScheduleForgetPatch",
            display_name="Schedule Forget Patch",
            category=CATEGORY,
            description="Applies a patch to conditionings for a part of the sampling, or with strengths from keyframes, on the positive "
            "prompt only or on both. The MODEL stays as it is.",
            inputs=[
                _positive(),
                *patch_source.inputs(),
                *_when(),
                io.Combo.Input(
                    "apply_to",
                    options=["positive", _BOTH],
                    default=_BOTH,
                    tooltip="Which conditionings carry the patch. On both it acts as it does when applied to the MODEL.",
                ),
                *_optional(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, positive, patch_file, apply_to, forget_patch=None, negative=None, **when) -> io.NodeOutput:
        patch = patch_source.chosen(patch_file, forget_patch)
        hooks = _Hooks([patch], **when)
        positive = [hooks.on(cond, (1.0,)) for cond in positive]
        negative = [hooks.on(cond, (1.0,)) if apply_to == _BOTH else cond for cond in negative or []]
        report = "\n".join([f"forgets: {reports.forgotten(patch)}", f"on {apply_to}", hooks.when()])
        return io.NodeOutput(positive, negative, report)


class _Gates:
    """One gate for each of the patches that stand side by side, each with its own threshold where none was chosen."""

    def __init__(self, text: Any, parts: list[ForgetPatch], settings: GateSettings):
        text = EncodedOnce(text)
        self.names = [reports.forgotten(part) for part in parts]
        concepts = [concepts_of(part) for part in parts]
        every_concept = [c for of_part in concepts for c in of_part]
        report_progress = _counted(1 + sum(len(c.names()) for c in every_concept))
        background = Background(text, every_concept)
        report_progress()
        self.gates = [ConceptGate(text, of_part, background, report_progress) for of_part in concepts]
        self.settings = [settings.resolved(gate) for gate in self.gates]

    def thresholds(self) -> str:
        """What is said of them."""
        found = sorted({f"{s.threshold:.2f}" for s in self.settings})
        return f"acts above similarity {found[0]}" + (f" to {found[-1]}, by concept" if len(found) > 1 else "")

    def of(self, context: torch.Tensor, tokens: Any) -> tuple[tuple[float, ...], str]:
        """How strongly each part acts on a prompt, and what to say of those that do, or of the nearest."""
        similarities = [gate.similarity(context, tokens) for gate in self.gates]
        gammas = tuple(s.strength(x) for s, x in zip(self.settings, similarities))
        acting = [n for n, gamma in enumerate(gammas) if gamma] or [similarities.index(max(similarities))]
        several = len(gammas) > 1
        said = (
            f"similarity {similarities[n]:.2f}{f' to {self.names[n]}' if several else ''}, acts at {gammas[n]:.2f}"
            for n in acting
        )
        return gammas, " and ".join(said)


def _counted(total: int) -> Callable[[], None]:
    """A function that moves the node's progress bar on by one of `total` steps."""
    bar, steps = host.Progress(total), itertools.count(1)
    return lambda: bar.update(next(steps), total)


class _Hooks:
    """The host's hooks of the parts of a patch, one for each set of strengths, so that conditionings of equal strengths share a model pass."""

    def __init__(
        self, parts: list[ForgetPatch], strength: float, start_percent: float, end_percent: float, keyframes=None
    ):
        if not start_percent < end_percent:
            raise ForgetError(
                f"Expected a start before the end, got {start_percent:g} and {end_percent:g}. Choose a start_percent below end_percent."
            )
        self.parts, self.strength = parts, strength
        self.start, self.end, self.keyframes = start_percent, end_percent, keyframes
        self._made: dict[tuple[float, ...], Any] = {}

    def on(self, cond: Any, gammas: tuple[float, ...]) -> Any:
        """The conditioning with every part at its gamma times the strength; itself where all are 0."""
        if self.strength == 0 or not any(gammas):
            return cond
        host.check_context_width(self.parts[0], cond[0].shape[-1])
        if gammas not in self._made:
            self._made[gammas] = self._hooks(gammas)
        return host.with_hooks(cond, self._made[gammas])

    def _hooks(self, gammas: tuple[float, ...]) -> Any:
        when = self.start, self.end, self.keyframes
        if len(self.parts) == 1:
            return host.patch_hooks(self.parts[0], self.strength * gammas[0], *when)
        return host.patch_hooks(sum_of_parts(self.parts, gammas), self.strength, *when)

    def when(self) -> str:
        if self.keyframes is not None:
            return f"strength {self.strength:g}, times that of the keyframes"
        return f"strength {self.strength:g}, from {self.start:.0%} to {self.end:.0%} of the sampling"


def _gated(gates: _Gates, hooks: _Hooks, cond: Any) -> tuple[list[Any], str]:
    """A conditioning with the patch as strong as it needs, prompt by prompt, and what to say of it."""
    context, values = cond
    found = [gates.of(row, _tokens(row, values, len(context))) for row in context]
    said, strengths = ", ".join(words for _, words in found), [gammas for gammas, _ in found]
    if len(set(strengths)) == 1:
        return [hooks.on(cond, strengths[0])], said
    parts = []
    for gammas in dict.fromkeys(strengths):
        rows = torch.tensor([g == gammas for g in strengths])
        parts.append(hooks.on(host.only_rows(cond, rows), gammas))
    return parts, said


def _tokens(row: torch.Tensor, values: dict[str, Any], rows: int) -> Any:
    """The tokens of a prompt where they are known: those that Encode Prompt left, or remembers."""
    if TOKENS_KEY in values and rows == 1:
        return values[TOKENS_KEY]
    known = [encoded_chunks.recall(chunk) for chunk in row.split(77)]
    found = [k[0] for k in known if k is not None]
    if not found:
        return None
    return {name: [chunk for tokens in found for chunk in tokens[name]] for name in found[0]}
