"""Gated Forget Patch: applies a patch only to prompts that are near its concept."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.compose.gate import BackgroundPrompts, ConceptGate, GateSettings
from ...fmn_core.compose.recorded import gated_concepts, recorded_settings
from ...fmn_core.concepts.preserve import longer_names
from ...fmn_core.model.encoding_cache import MemoizedEncoding
from ...fmn_core.model.tokens import CHUNK
from ...fmn_core.patch.parts import parts_of
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..adapter.chunk_memory import TOKENS_KEY, Tokens, encoded_chunks
from ..adapter.graph_texts import remember_texts
from ..adapter.references import with_cache
from ..adapter.transformer import text_model
from ..host.node_api import Menu, io
from ..ui import patch_source, reports
from ..ui.option_inputs import option_inputs
from . import conditioning_patch
from .conditioning_patch import ConditioningHooks


class GatedForgetPatch(patch_source.PatchFileNode):
    """Puts a patch on conditionings, as strongly as each prompt is near the concept."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_GatedForgetPatch",
            display_name="Gated Forget Patch",
            category=Menu.WHILE_SAMPLING,
            description="Applies a patch only to prompts that are near what it forgets: other prompts give the very same "
            "picture as without it. Of patches merged side by side it applies those that a prompt is near. Works on conditionings; the MODEL stays as it is.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP that encoded the prompts."),
                conditioning_patch.positive_input(),
                patch_source.file_input(),
                *conditioning_patch.schedule_inputs(),
                *option_inputs(GateSettings, "threshold", "curve"),
                *conditioning_patch.optional_inputs(),
            ],
            outputs=conditioning_patch.outputs(),
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
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
        patch = patch_source.chosen_patch(patch_file, forget_patch)
        parts = parts_of(patch)
        gates = _PartGates(with_cache(text_model(clip)), parts, settings)
        remember_texts(clip, host.graph_texts(cls), gates.are_near)
        hooks = ConditioningHooks(parts, strength, start_percent, end_percent, keyframes)
        lines = [f"forgets: {reports.forgotten(patch)}", gates.threshold_line()]
        outputs = []
        for name, conditioning in (("positive", positive), ("negative", negative)):
            gated = [_gate_conditioning(gates, hooks, cond) for cond in conditioning or []]
            outputs.append([cond for conds, _ in gated for cond in conds])
            lines += [f"{name} {number}: {line}" for number, (_, line) in enumerate(gated, 1)]
        return io.NodeOutput(*outputs, "\n".join([*lines, hooks.schedule_line()]))


class _PartGates:
    """One gate for each of the patches that stand side by side; with an automatic threshold, each has its own."""

    def __init__(self, text: Any, parts: list[ForgetPatch], settings: GateSettings):
        text = MemoizedEncoding(text)
        self.names = [reports.forgotten(part) for part in parts]
        concepts_by_part = [gated_concepts(part) for part in parts]
        concepts = [concept for part_concepts in concepts_by_part for concept in part_concepts]
        report_progress = host.step_counter(1 + sum(len(concept.names()) for concept in concepts))
        background = BackgroundPrompts(text, concepts)
        report_progress()
        self.gates = [
            ConceptGate(text, concepts, background, report_progress, longer_names(text, concepts, lines))
            for concepts, lines in zip(concepts_by_part, (recorded_settings(part).preserve_prompts for part in parts))
        ]
        self.settings = [settings.resolved(gate) for gate in self.gates]

    def are_near(self, tokens: Tokens) -> bool:
        """Whether a prompt with these tokens shares any with a concept."""
        return any(gate.overlap(tokens) > 0 for gate in self.gates)

    def threshold_line(self) -> str:
        """One line for the report: the threshold, or the range of thresholds."""
        thresholds = sorted({f"{s.threshold:.2f}" for s in self.settings})
        span = f" to {thresholds[-1]}, by concept" if len(thresholds) > 1 else ""
        return f"acts above similarity {thresholds[0]}{span}"

    def part_strengths(self, context: torch.Tensor, tokens: Any) -> tuple[tuple[float, ...], str]:
        """Strengths of the parts on a prompt, and what the report says about it.

        Parameters
        ----------
        context
            The encoded prompt (l, dim).
        tokens
            Token ids of the prompt by encoder and chunk; None where they are not known.

        Returns
        -------
        tuple of float
            Strength of each part, 0..1.
        str
            Similarity and strength of the parts that act, or of the nearest part where none acts.
        """
        similarities = [gate.similarity(context, tokens) for gate in self.gates]
        strengths = tuple(s.strength(x) for s, x in zip(self.settings, similarities))
        acting = [n for n, strength in enumerate(strengths) if strength] or [similarities.index(max(similarities))]
        several = len(strengths) > 1
        texts = (
            f"similarity {similarities[n]:.2f}{f' to {self.names[n]}' if several else ''}, acts at {strengths[n]:.2f}"
            for n in acting
        )
        return strengths, " and ".join(texts)


def _gate_conditioning(gates: _PartGates, hooks: ConditioningHooks, cond: Any) -> tuple[list[Any], str]:
    """Splits a conditioning by the strengths of its prompts and adds their hooks; also returns the report's line on it."""
    context, values = cond
    gated = [gates.part_strengths(row, _prompt_tokens(row, values, len(context))) for row in context]
    line, strengths = ", ".join(text for _, text in gated), [part_strengths for part_strengths, _ in gated]
    if len(set(strengths)) == 1:
        return [hooks.attach(cond, strengths[0])], line
    conds = []
    for part_strengths in dict.fromkeys(strengths):
        rows = torch.tensor([s == part_strengths for s in strengths])
        conds.append(hooks.attach(host.limit_to_rows(cond, rows), part_strengths))
    return conds, line


def _prompt_tokens(row: torch.Tensor, values: dict[str, Any], rows: int) -> Any:
    """Tokens of a prompt, from the conditioning or from the memory of Encode Prompt; None if neither has them."""
    if TOKENS_KEY in values and rows == 1:
        return values[TOKENS_KEY]
    recalled = [encoded_chunks.recall(chunk) for chunk in row.split(CHUNK)]
    prompts = [prompt[0] for prompt in recalled if prompt is not None]
    if not prompts:
        return None
    return {name: [chunk for tokens in prompts for chunk in tokens[name]] for name in prompts[0]}
