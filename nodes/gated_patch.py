"""Gated and scheduled patches: a patch on the conditionings that need it, for the part of the sampling that needs it."""

from __future__ import annotations

from typing import Any

import torch

from ..fmn_core.errors import ForgetError
from ..fmn_core.gate import CURVES, ConceptGate, GateSettings
from ..fmn_core.merge import concepts_of
from ..fmn_core.patch import ForgetPatch
from . import host, patch_source, reports
from .api import CATEGORY, io
from .chunk_memory import encoded_chunks
from .comfy_text import ComfyText
from .encode_prompt import TOKENS_KEY
from .references import with_cache

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
            "picture as without it. Works on conditionings; the MODEL stays as it is.",
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
                    tooltip="Similarity of prompt and concept up to which the patch stays off. 0: half way from everyday captions to prompts "
                    "that name the concept, as this CLIP encodes them; the report says which.",
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
        gate = ConceptGate(with_cache(ComfyText(clip)), concepts_of(patch))
        settings = GateSettings(threshold, curve).resolved(gate)
        hooks = _Hooks(patch, **when)
        lines = [f"forgets: {reports.forgotten(patch)}", f"acts above similarity {settings.threshold:.2f}"]
        both = []
        for name, conditioning in (("positive", positive), ("negative", negative)):
            found = []
            for number, cond in enumerate(conditioning or [], 1):
                parts, said = _gated(gate, settings, hooks, cond)
                found += parts
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
        hooks = _Hooks(patch, **when)
        positive = [hooks.on(cond, 1.0) for cond in positive]
        negative = [hooks.on(cond, 1.0) if apply_to == _BOTH else cond for cond in negative or []]
        report = "\n".join([f"forgets: {reports.forgotten(patch)}", f"on {apply_to}", hooks.when()])
        return io.NodeOutput(positive, negative, report)


class _Hooks:
    """The host's hooks of one patch, one for each strength, so that conditionings of equal strength share a model pass."""

    def __init__(self, patch: ForgetPatch, strength: float, start_percent: float, end_percent: float, keyframes=None):
        if not start_percent < end_percent:
            raise ForgetError(
                f"Expected a start before the end, got {start_percent:g} and {end_percent:g}. Choose a start_percent below end_percent."
            )
        self.patch, self.strength = patch, strength
        self.start, self.end, self.keyframes = start_percent, end_percent, keyframes
        self._made: dict[float, Any] = {}

    def on(self, cond: Any, gamma: float) -> Any:
        """The conditioning with the patch at gamma times the strength; itself at 0."""
        strength = self.strength * gamma
        if strength == 0:
            return cond
        host.check_context_width(self.patch, cond[0].shape[-1])
        if strength not in self._made:
            self._made[strength] = host.patch_hooks(self.patch, strength, self.start, self.end, self.keyframes)
        return host.with_hooks(cond, self._made[strength])

    def when(self) -> str:
        if self.keyframes is not None:
            return f"strength {self.strength:g}, times that of the keyframes"
        return f"strength {self.strength:g}, from {self.start:.0%} to {self.end:.0%} of the sampling"


def _gated(gate: ConceptGate, settings: GateSettings, hooks: _Hooks, cond: Any) -> tuple[list[Any], str]:
    """A conditioning with the patch as strong as it needs, prompt by prompt, and what to say of it."""
    context, values = cond
    gammas = []
    for row in context:
        similarity = gate.similarity(row, _tokens(row, values, len(context)))
        gammas.append((similarity, settings.strength(similarity)))
    said = ", ".join(f"similarity {s:.2f}, acts at {g:.2f}" for s, g in gammas)
    strengths = [g for _, g in gammas]
    if len(set(strengths)) == 1:
        return [hooks.on(cond, strengths[0])], said
    parts = []
    for gamma in dict.fromkeys(strengths):
        rows = torch.tensor([g == gamma for g in strengths])
        parts.append(hooks.on(host.only_rows(cond, rows), gamma))
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
