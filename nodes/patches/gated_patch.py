"""Gated Forget Patch: a patch on the prompts that are near its concept, and on no others."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.compose.gate import CURVES, Background, ConceptGate, GateSettings
from ...fmn_core.compose.merge import concepts_of
from ...fmn_core.model.encoding_cache import MemoizedEncoding
from ...fmn_core.model.tokens import CHUNK
from ...fmn_core.patch.parts import parts_of
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..adapter.chunk_memory import TOKENS_KEY, encoded_chunks
from ..adapter.references import with_cache
from ..adapter.text import ComfyText
from ..host.node_api import CATEGORY, io
from ..ui import patch_source, reports
from . import conditioning_patch
from .conditioning_patch import ConditioningHooks


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
                conditioning_patch.positive_input(),
                *patch_source.inputs(),
                *conditioning_patch.schedule_inputs(),
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
                *conditioning_patch.optional_inputs(),
            ],
            outputs=conditioning_patch.outputs(),
        )

    @classmethod
    def execute(
        cls,
        clip,
        positive,
        patch_file,
        strength,
        start_percent,
        end_percent,
        threshold,
        curve,
        forget_patch=None,
        negative=None,
        keyframes=None,
    ) -> io.NodeOutput:
        settings = GateSettings(threshold, curve)
        settings.strength(0.0)
        patch = patch_source.chosen(patch_file, forget_patch)
        parts = parts_of(patch)
        gates = _PartGates(with_cache(ComfyText(clip)), parts, settings)
        hooks = ConditioningHooks(parts, strength, start_percent, end_percent, keyframes)
        lines = [f"forgets: {reports.forgotten(patch)}", gates.threshold_line()]
        outputs = []
        for name, conditioning in (("positive", positive), ("negative", negative)):
            gated = [_gate_conditioning(gates, hooks, cond) for cond in conditioning or []]
            outputs.append([cond for conds, _ in gated for cond in conds])
            lines += [f"{name} {number}: {line}" for number, (_, line) in enumerate(gated, 1)]
        return io.NodeOutput(*outputs, "\n".join([*lines, hooks.schedule_line()]))


class _PartGates:
    """One gate for each of the patches that stand side by side, each with its own threshold where none was chosen."""

    def __init__(self, text: Any, parts: list[ForgetPatch], settings: GateSettings):
        text = MemoizedEncoding(text)
        self.names = [reports.forgotten(part) for part in parts]
        concepts = [concepts_of(part) for part in parts]
        every_concept = [concept for of_part in concepts for concept in of_part]
        report_progress = host.step_counter(1 + sum(len(concept.names()) for concept in every_concept))
        background = Background(text, every_concept)
        report_progress()
        self.gates = [ConceptGate(text, of_part, background, report_progress) for of_part in concepts]
        self.settings = [settings.resolved(gate) for gate in self.gates]

    def threshold_line(self) -> str:
        """One line for the report: the threshold, or the range of thresholds."""
        thresholds = sorted({f"{s.threshold:.2f}" for s in self.settings})
        span = f" to {thresholds[-1]}, by concept" if len(thresholds) > 1 else ""
        return f"acts above similarity {thresholds[0]}{span}"

    def part_strengths(self, context: torch.Tensor, tokens: Any) -> tuple[tuple[float, ...], str]:
        """Strength 0..1 of each part on a prompt, and the report's words on the parts that act, or on the nearest one."""
        similarities = [gate.similarity(context, tokens) for gate in self.gates]
        strengths = tuple(s.strength(x) for s, x in zip(self.settings, similarities))
        acting = [n for n, strength in enumerate(strengths) if strength] or [similarities.index(max(similarities))]
        several = len(strengths) > 1
        lines = (
            f"similarity {similarities[n]:.2f}{f' to {self.names[n]}' if several else ''}, acts at {strengths[n]:.2f}"
            for n in acting
        )
        return strengths, " and ".join(lines)


def _gate_conditioning(gates: _PartGates, hooks: ConditioningHooks, cond: Any) -> tuple[list[Any], str]:
    """A conditioning with the patch as strong as each of its prompts needs, and the report's words on it."""
    context, values = cond
    gated = [gates.part_strengths(row, _prompt_tokens(row, values, len(context))) for row in context]
    line, strengths = ", ".join(words for _, words in gated), [part_strengths for part_strengths, _ in gated]
    if len(set(strengths)) == 1:
        return [hooks.attach(cond, strengths[0])], line
    conds = []
    for part_strengths in dict.fromkeys(strengths):
        rows = torch.tensor([s == part_strengths for s in strengths])
        conds.append(hooks.attach(host.only_rows(cond, rows), part_strengths))
    return conds, line


def _prompt_tokens(row: torch.Tensor, values: dict[str, Any], rows: int) -> Any:
    """The tokens of a prompt that Encode Prompt left in the conditioning or remembers; None where they are not known."""
    if TOKENS_KEY in values and rows == 1:
        return values[TOKENS_KEY]
    recalled = [encoded_chunks.recall(chunk) for chunk in row.split(CHUNK)]
    prompts = [prompt[0] for prompt in recalled if prompt is not None]
    if not prompts:
        return None
    return {name: [chunk for tokens in prompts for chunk in tokens[name]] for name in prompts[0]}
