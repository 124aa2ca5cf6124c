"""Clear Forget Cache: frees the disk space of what trainings keep for the next run."""

from __future__ import annotations

from ..fmn_core.cache import Cache
from . import host
from .api import CATEGORY, io


class ClearForgetCache(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ClearForgetCache",
            display_name="Clear Forget Cache",
            category=CATEGORY,
            description="Removes what this pack's nodes keep in ComfyUI's temporary folder to be faster the next time. Nothing else is lost.",
            is_output_node=True,
            inputs=[],
            outputs=[
                io.String.Output(display_name="report", tooltip="The folder, and how much disk space was freed in it.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls):
        # never equal to itself: the node has no inputs, and must run whenever it is queued
        return float("nan")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        cache = Cache(host.cache_folder())
        freed, left = cache.clear(), cache.size()
        report = f"freed {freed / 1e6:.1f} MB in {cache.folder}"
        if left:
            report += (
                f"\n{left / 1e6:.1f} MB could not be removed: another program uses them, or the folder is read-only"
            )
        return io.NodeOutput(report, ui={"text": (report,)})
