"""Schedule Forget Patch: applies a patch for a part of the sampling, or with strengths from keyframes."""

from __future__ import annotations

from ..host.node_api import Menu, io
from ..ui import patch_source, reports
from . import conditioning_patch

BOTH = "both"


class ScheduleForgetPatch(patch_source.PatchFileNode):
    """Puts a patch on conditionings for a part of the sampling."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ScheduleForgetPatch",
            display_name="Schedule Forget Patch",
            category=Menu.WHILE_SAMPLING,
            description="Applies a patch to conditionings for a part of the sampling, or with strengths from keyframes, on the positive "
            "prompt only or on both. The MODEL stays as it is.",
            inputs=[
                conditioning_patch.positive_input(),
                patch_source.file_input(),
                *conditioning_patch.schedule_inputs(),
                io.Combo.Input(
                    "apply_to",
                    options=["positive", BOTH],
                    default=BOTH,
                    tooltip="Which conditionings carry the patch. On both it acts as it does when applied to the MODEL.",
                ),
                *conditioning_patch.optional_inputs(),
            ],
            outputs=conditioning_patch.outputs(),
        )

    @classmethod
    def execute(
        cls,
        positive,
        patch_file,
        strength,
        start_percent,
        end_percent,
        apply_to,
        forget_patch=None,
        negative=None,
        keyframes=None,
    ) -> io.NodeOutput:
        patch = patch_source.chosen_patch(patch_file, forget_patch)
        hooks = conditioning_patch.ConditioningHooks([patch], strength, start_percent, end_percent, keyframes)
        positive = [hooks.attach(cond, (1.0,)) for cond in positive]
        negative = [hooks.attach(cond, (1.0,)) if apply_to == BOTH else cond for cond in negative or []]
        report = "\n".join([f"forgets: {reports.forgotten(patch)}", f"on {apply_to}", hooks.schedule_line()])
        return io.NodeOutput(positive, negative, report)
