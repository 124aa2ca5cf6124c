"""Apply Forget Patch: puts a patch, from a file or from another node, on a MODEL."""

from __future__ import annotations

from ...fmn_core.patch.patch import base_difference, fingerprint_of_weights
from .. import host
from ..adapter import connected
from ..host.node_api import Menu, io
from ..ui import patch_source, reports


class ApplyForgetPatch(patch_source.PatchFileNode):
    """Applies a patch to a MODEL and compares the base models."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ApplyForgetPatch",
            display_name="Apply Forget Patch",
            category=Menu.MAIN,
            description="Applies a forget patch to a MODEL. Patches are ordinary LoRA files: the stock Load LoRA gives the same result.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that is to forget. It is not changed; a patched clone comes out."
                ),
                patch_source.file_input(),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 forgets as trained, 0 does nothing, below 0 exaggerates the concept.",
                ),
                patch_source.patch_input(),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the patch applied."),
                io.String.Output(
                    display_name="report",
                    tooltip="What the patch forgets, how many layers matched, and whether the base model is the same.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, patch_file, strength, forget_patch=None) -> io.NodeOutput:
        patch = patch_source.chosen_patch(patch_file, forget_patch)
        patched, matched = host.apply_patch(model, patch, strength)
        lines = [
            f"forgets: {reports.forgotten(patch)}",
            f"matched {matched} of {len(patch.factors)} layers, strength {strength:g}",
        ]
        if strength < 0:
            lines.append("warning: a negative strength does the opposite, the concept is exaggerated")
        lines += host.size_warnings(model, patch, strength)
        base = fingerprint_of_weights(host.key_weights(model))
        connected.remember_base(base)
        difference = base_difference(patch.base, base)
        if difference:
            lines.append(f"warning: {difference}; it may forget less")
        return io.NodeOutput(patched, "\n".join(lines))
