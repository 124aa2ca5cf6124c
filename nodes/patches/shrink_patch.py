"""Shrink Forget Patch: fewer ranks, a smaller file."""

from __future__ import annotations

from ...fmn_core.patch.shrink import DTYPES, shrink_patch
from ..host.node_api import CATEGORY, ForgetPatchType, io
from ..ui import destination, patch_source, reports, shared_inputs


class ShrinkForgetPatch(patch_source.PatchFileNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ShrinkForgetPatch",
            display_name="Shrink Forget Patch",
            category=CATEGORY,
            description="Lowers the LoRA rank of a patch by SVD, or its precision, and tells what that leaves behind.",
            is_output_node=True,
            inputs=[
                *patch_source.inputs(),
                io.Int.Input("rank", default=8, min=1, max=1024, tooltip="Upper bound of the LoRA rank of a layer."),
                io.Float.Input(
                    "tolerance",
                    default=0.0,
                    min=0.0,
                    max=0.5,
                    step=0.001,
                    tooltip="Share of a layer's energy that may be left behind where a lower rank will do. 0: the rank alone counts.",
                ),
                io.Combo.Input(
                    "precision", options=list(DTYPES), default="fp16", tooltip="Precision of the factors in the file."
                ),
                shared_inputs.patch_file("smaller"),
                patch_source.connection(),
            ],
            outputs=[
                ForgetPatchType.Output(display_name="FORGET_PATCH", tooltip="The smaller patch, as the file holds it."),
                io.String.Output(display_name="report", tooltip="Ranks before and after, and the energy left behind."),
            ],
        )

    @classmethod
    def execute(cls, patch_file, rank, tolerance, precision, file_name, forget_patch=None) -> io.NodeOutput:
        file = destination.of_patch(file_name)
        patch = patch_source.chosen(patch_file, forget_patch)
        found = shrink_patch(patch, rank, tolerance)
        smaller, dtype = found.patch.as_stored(DTYPES[precision]), DTYPES[precision]
        saved = file.save_patch(found.patch, dtype)
        ranks = [max(f.rank for f in p.factors.values()) for p in (patch, smaller)]
        worst = max(found.residuals, key=found.residuals.__getitem__)
        report = "\n".join(
            [
                *saved.warning,
                f"rank {ranks[0]} -> {ranks[1]}, {precision}",
                f"energy left behind: {found.residual:.2%}, most in {worst}: {found.residuals[worst]:.2%}",
                *reports.saved(saved),
            ]
        )
        return io.NodeOutput(smaller, report, ui={"text": (report,)})
