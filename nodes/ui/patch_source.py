"""Inputs that give a node its forget patch: a connection, or a file from the list."""

from __future__ import annotations

from typing import Any

from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.file import load_patch
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..host.node_api import ForgetPatchType, io

PATCH_SUFFIX = ".safetensors"
FROM_INPUT = "(from the forget_patch input)"


def file_input() -> Any:
    """The list of patch files."""
    return io.Combo.Input(
        "patch_file",
        options=[FROM_INPUT, *host.patch_files()],
        default=FROM_INPUT,
        tooltip="A patch under models/loras/forget_me_not, or the one connected below.",
    )


def patch_input() -> Any:
    """The optional connection to a node that gives a patch."""
    return ForgetPatchType.Input(
        "forget_patch", optional=True, tooltip="A patch from another node; it wins over the file."
    )


def chosen_patch(patch_file: str, forget_patch: ForgetPatch | None) -> ForgetPatch:
    """The connected patch, or the patch in the chosen file; raises ForgetError if there is neither."""
    if forget_patch is not None:
        return forget_patch
    if patch_file == FROM_INPUT:
        raise ForgetError(
            "Expected a patch, got neither a file nor a connection. Choose a file or connect Forget Concept."
        )
    return load_patch(host.patch_path(patch_file))


class PatchFileNode(io.ComfyNode):
    """A node with `file_input` that runs again when the file changes, and accepts files that are newer than the page's list."""

    @classmethod
    def fingerprint_inputs(cls, patch_file=FROM_INPUT, **inputs):
        if patch_file == FROM_INPUT:
            return ""
        try:
            return host.file_version(host.patch_path(patch_file))
        except (ForgetError, OSError):
            return ""

    @classmethod
    def validate_inputs(cls, patch_file=FROM_INPUT):
        # The host does not check an input that validate_inputs names. Its own check uses the list from when the page was loaded.
        if patch_file != FROM_INPUT and patch_file not in host.patch_files():
            return f"Expected a patch from the list, {patch_file!r} is not under models/loras/forget_me_not. Refresh the list or train it first."
        return True
