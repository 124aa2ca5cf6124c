"""Clear Forget Cache: frees the memory of encodings that trainings keep for the next run."""

from __future__ import annotations

from ..adapter import references
from ..host.node_api import Menu, io


class ClearForgetCache(io.ComfyNode):
    """Node that clears the cache of encoded images, pairs and prompts."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ClearForgetCache",
            display_name="Clear Forget Cache",
            category=Menu.TRAINING,
            description="Frees the memory of what this pack's nodes keep to be faster the next time. Nothing else is lost. The page has a command of "
            "the same name.",
            is_output_node=True,
            is_deprecated=True,
            inputs=[],
            outputs=[io.String.Output(display_name="report", tooltip="How much memory was freed.")],
        )

    @classmethod
    def fingerprint_inputs(cls):
        """A value that makes the host run the node whenever it is queued."""
        # NaN differs from itself, so the host runs this node, which has no inputs, whenever it is queued.
        return float("nan")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        report = f"freed {references.shared_cache().clear() / 1e6:.1f} MB of memory"
        return io.NodeOutput(report, ui={"text": (report,)})
