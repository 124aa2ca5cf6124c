"""Shrink Forget Patch: lowers the rank or the precision of a patch."""

from __future__ import annotations

from ...fmn_core.patch.shrink import ShrinkSettings, shrink_patch
from ..host.node_api import ForgetPatchType, Menu, io
from ..ui import destination, patch_source, reports, shared_inputs
from ..ui.option_inputs import option_inputs


class ShrinkForgetPatch(patch_source.PatchFileNode):
    """Lowers the rank of a patch by SVD and saves it in the chosen precision."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ShrinkForgetPatch",
            display_name="Shrink Forget Patch",
            category=Menu.PATCHES,
            description="Lowers the LoRA rank of a patch by SVD, or its precision, and tells what that leaves behind. Save Forget Patch "
            "does the same.",
            is_output_node=True,
            is_deprecated=True,
            inputs=[
                patch_source.file_input(),
                *option_inputs(ShrinkSettings, "rank", "tolerance", "precision"),
                shared_inputs.patch_file("smaller"),
                patch_source.patch_input(),
            ],
            outputs=[
                ForgetPatchType.Output(display_name="FORGET_PATCH", tooltip="The smaller patch, as the file holds it."),
                io.String.Output(display_name="report", tooltip="Ranks before and after, and the energy left behind."),
            ],
        )

    @classmethod
    def execute(cls, patch_file, rank, tolerance, precision, file_name, forget_patch=None) -> io.NodeOutput:
        file = destination.for_patch(file_name)
        patch = patch_source.chosen_patch(patch_file, forget_patch)
        settings = ShrinkSettings(rank=rank, tolerance=tolerance, precision=precision)
        shrunk = shrink_patch(patch, settings.rank, settings.tolerance)
        smaller = shrunk.patch.as_stored(settings.dtype)
        saved = file.save_patch(shrunk.patch, settings.dtype)
        ranks = [max(f.rank for f in p.factors.values()) for p in (patch, smaller)]
        worst = max(shrunk.residuals, key=shrunk.residuals.__getitem__)
        report = "\n".join(
            [
                *saved.warning,
                f"rank {ranks[0]} -> {ranks[1]}, {precision}",
                f"energy left behind: {shrunk.residual:.2%}, most in {worst}: {shrunk.residuals[worst]:.2%}",
                *reports.saved_lines(saved),
            ]
        )
        return io.NodeOutput(smaller, report, ui={"text": (report,)})
