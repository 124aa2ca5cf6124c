"""Forget Report: the same prompts and seeds before and after, side by side and under a slider."""

from __future__ import annotations

from ..fmn_core.errors import ForgetError
from . import pictures, reports
from .api import CATEGORY, ForgetPatchType, io
from .mask_overlay import check_images
from .temporary_images import saved


class ForgetReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ForgetReport",
            display_name="Forget Report",
            category=CATEGORY,
            description="Compares pictures of the same prompts and seeds before and after forgetting: a slider in the node, and one "
            "figure with all of them.",
            is_output_node=True,
            inputs=[
                io.Image.Input("before", tooltip="Pictures of the model as it was."),
                io.Image.Input("after", tooltip="Pictures of the same prompts and seeds with the patch, as many."),
                ForgetPatchType.Input("forget_patch", optional=True, tooltip="The patch, for the figure's title."),
            ],
            outputs=[io.Image.Output(display_name="figure", tooltip="All pictures, before above after.")],
        )

    @classmethod
    def execute(cls, before, after, forget_patch=None) -> io.NodeOutput:
        sides = [check_images(side)[..., :3].detach().cpu().float() for side in (before, after)]
        if sides[0].shape != sides[1].shape:
            got = " and ".join(f"{len(s)} of {s.shape[2]} x {s.shape[1]}" for s in sides)
            raise ForgetError(
                f"Expected as many pictures of one size before and after, got {got}. Use the same batch and size."
            )
        title = f"forgets: {reports.forgotten(forget_patch)}" if forget_patch is not None else "before and after"
        shown = {f"fmn_{name}": saved(side, cls) for name, side in zip(("before", "after"), sides)}
        return io.NodeOutput(pictures.before_after(*sides, title), ui=shown)
