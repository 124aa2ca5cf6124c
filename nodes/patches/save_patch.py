"""Save Forget Patch: saves a patch with title, author, licence, notes and a preview picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.patch.shrink import DTYPES, ShrinkSettings, shrink_patch
from ..host import saving
from ..host.node_api import Menu, io
from ..ui import patch_source, preview_picture, reports, shared_inputs
from ..ui.destination import SaveResult
from ..ui.option_inputs import option_input


class SaveForgetPatch(patch_source.PatchFileNode):
    """Saves a patch with a description of it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_SaveForgetPatch",
            display_name="Save Forget Patch",
            category=Menu.PATCHES,
            description="Saves a patch with what you want to say of it: title, author, licence, notes, a preview picture.",
            is_output_node=True,
            inputs=[
                patch_source.file_input(),
                io.String.Input("title", default="", tooltip="Empty: what it forgets."),
                io.String.Input("author", default="", tooltip="Who made it."),
                io.String.Input(
                    "licence", default="", tooltip="Under which licence others may use it, such as CC0-1.0."
                ),
                io.String.Input("notes", default="", multiline=True, tooltip="Anything a user should know."),
                option_input(ShrinkSettings, "precision", tooltip="Precision of the factors."),
                io.Boolean.Input(
                    "embedding_keys",
                    default=False,
                    tooltip="Also store inverted concepts as bundle_emb keys, where ComfyUI and A1111 find an embedding in a LoRA file. diffusers refuses such files.",
                ),
                shared_inputs.patch_file("shared"),
                patch_source.patch_input(),
                io.Image.Input("preview", optional=True, tooltip="A picture for the file; scaled to 256 px."),
                *_shrinking_inputs(),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="Where it is, and how large.")],
        )

    @classmethod
    def execute(
        cls,
        patch_file,
        title,
        author,
        licence,
        notes,
        precision,
        embedding_keys,
        file_name,
        forget_patch=None,
        preview=None,
        rank=0,
        tolerance=0.0,
    ) -> io.NodeOutput:
        stem = saving.check_file_name(file_name)
        if not stem:
            raise ForgetError("Expected a file name, got an empty text. Type one.")
        patch = patch_source.chosen_patch(patch_file, forget_patch)
        texts = {"title": title, "author": author, "licence": licence, "notes": notes}
        about = {name: text.strip() for name, text in texts.items() if text.strip()}
        if preview is not None:
            about["preview"] = preview_picture.encode_preview(preview)
        patch, shrinking = _shrunk(patch, rank, tolerance)
        described = replace(patch, about={**patch.about, **about})
        saved = SaveResult(saving.save_patch_file(described, stem, DTYPES[precision], embedding_keys))
        report = "\n".join([*shrinking, *reports.saved_lines(saved)])
        return io.NodeOutput(report, ui={"text": (report,)})


def _shrinking_inputs() -> list[Any]:
    inputs = [
        option_input(
            ShrinkSettings,
            "rank",
            default=0,
            min=0,
            optional=True,
            tooltip="Largest LoRA rank of a layer, by SVD. 0: as it is.",
        ),
        option_input(ShrinkSettings, "tolerance", optional=True),
    ]
    return [shared_inputs.advanced(made) for made in inputs]


def _shrunk(patch: ForgetPatch, rank: int, tolerance: float) -> tuple[ForgetPatch, list[str]]:
    """The patch with its rank lowered where that was asked for, and the report's line on what it left behind."""
    if not rank and not tolerance:
        return patch, []
    ranks = max(f.rank for f in patch.factors.values())
    shrunk = shrink_patch(patch, rank or ranks, tolerance)
    now = max(f.rank for f in shrunk.patch.factors.values())
    smaller = replace(shrunk.patch, about=patch.about)
    return smaller, [f"rank {ranks} -> {now}, energy left behind: {shrunk.residual:.2%}"]
