"""Apply Forget Patch: a MODEL that has forgotten, from a file or from a patch just trained."""

from __future__ import annotations

from ..fmn_core.errors import ForgetError
from ..fmn_core.patch import fingerprint_of_weights, load_patch, same_base
from . import host
from .api import CATEGORY, ForgetPatchType, io

FROM_INPUT = "(from the forget_patch input)"


class ApplyForgetPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ApplyForgetPatch",
            display_name="Apply Forget Patch",
            category=CATEGORY,
            description="Applies a forget patch to a MODEL. Patches are ordinary LoRA files: the stock Load LoRA gives the same result.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that is to forget. It is not changed; a patched clone comes out."
                ),
                io.Combo.Input(
                    "patch_file",
                    options=[FROM_INPUT, *host.patch_files()],
                    default=FROM_INPUT,
                    tooltip="A patch under models/loras/forget_me_not, or the one connected below.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 forgets as trained, 0 does nothing, below 0 exaggerates the concept.",
                ),
                ForgetPatchType.Input(
                    "forget_patch", optional=True, tooltip="A patch from Train Forget Patch; wins over the file."
                ),
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
    def fingerprint_inputs(cls, model=None, patch_file=FROM_INPUT, strength=1.0, forget_patch=None):
        if patch_file == FROM_INPUT:
            return ""
        try:
            return host.patch_path(patch_file).stat().st_mtime_ns
        except (ForgetError, OSError):
            return ""

    @classmethod
    def validate_inputs(cls, patch_file=FROM_INPUT):
        # Taking patch_file here switches off the host's check against the list, so that a patch trained a moment ago
        # can be named before the list is refreshed.
        if patch_file != FROM_INPUT and patch_file not in host.patch_files():
            return f"Expected a patch from the list, {patch_file!r} is not under models/loras/forget_me_not. Refresh the list or train it first."
        return True

    @classmethod
    def execute(cls, model, patch_file, strength, forget_patch=None) -> io.NodeOutput:
        patch = forget_patch
        if patch is None:
            if patch_file == FROM_INPUT:
                raise ForgetError(
                    "Expected a patch, got neither a file nor a connection. Choose a file or connect Train Forget Patch."
                )
            patch = load_patch(host.patch_path(patch_file))
        patched, matched = host.apply_patch(model, patch, strength)
        phrases = ", ".join(p for c in patch.concepts for p in c["phrases"]) or "unknown (no metadata)"
        lines = [f"forgets: {phrases}", f"matched {matched} of {len(patch.factors)} layers, strength {strength:g}"]
        if patch.base and not same_base(patch.base, fingerprint_of_weights(host.key_weights(model))):
            lines.append("made on another base model of the same architecture: it may forget less")
        return io.NodeOutput(patched, "\n".join(lines))
