"""Where a node takes a forget patch from: its connection, or a file of the list."""

from __future__ import annotations

from typing import Any

from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.file import load_patch
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..host.node_api import ForgetPatchType, io

PATCH_SUFFIX = ".safetensors"
FROM_INPUT = "(from the forget_patch input)"


def inputs() -> list[Any]:
    """The combo of files; the optional connection is `connection()`."""
    return [
        io.Combo.Input(
            "patch_file",
            options=[FROM_INPUT, *host.patch_files()],
            default=FROM_INPUT,
            tooltip="A patch under models/loras/forget_me_not, or the one connected below.",
        )
    ]


def connection() -> Any:
    return ForgetPatchType.Input(
        "forget_patch", optional=True, tooltip="A patch from another node; it wins over the file."
    )


def chosen(patch_file: str, forget_patch: ForgetPatch | None) -> ForgetPatch:
    """The connected patch, or the file's; raises ForgetError when there is neither."""
    if forget_patch is not None:
        return forget_patch
    if patch_file == FROM_INPUT:
        raise ForgetError(
            "Expected a patch, got neither a file nor a connection. Choose a file or connect Train Forget Patch."
        )
    return load_patch(host.patch_path(patch_file))


class PatchFileNode(io.ComfyNode):
    """A node with the inputs above: it runs again when the file changes, and takes a patch that was trained a moment ago."""

    @classmethod
    def fingerprint_inputs(cls, patch_file=FROM_INPUT, **others):
        if patch_file == FROM_INPUT:
            return ""
        try:
            return host.file_version(host.patch_path(patch_file))
        except (ForgetError, OSError):
            return ""

    @classmethod
    def validate_inputs(cls, patch_file=FROM_INPUT):
        # Taking patch_file here switches off the host's check against the list that the front end was given at its start.
        if patch_file != FROM_INPUT and patch_file not in host.patch_files():
            return f"Expected a patch from the list, {patch_file!r} is not under models/loras/forget_me_not. Refresh the list or train it first."
        return True
