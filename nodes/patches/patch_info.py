"""Forget Patch Info and Save Forget Patch: what a patch says of itself, and what its maker adds to that."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from ...fmn_core.errors import ForgetError, plain_text
from ...fmn_core.patch.patch import ForgetPatch, base_difference, fingerprint_of_weights
from ...fmn_core.patch.shrink import DTYPES
from .. import host
from ..adapter import connected
from ..host import saving as files
from ..host.node_api import CATEGORY, io
from ..ui import patch_source, preview_picture, reports, shared_inputs
from ..ui.destination import Saved


class ForgetPatchInfo(patch_source.PatchFileNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ForgetPatchInfo",
            display_name="Forget Patch Info",
            category=CATEGORY,
            description="Shows what a patch forgets, on which model and how it was made, by whom, and what was measured.",
            is_output_node=True,
            inputs=[
                *patch_source.inputs(),
                patch_source.connection(),
                io.Model.Input(
                    "model", optional=True, tooltip="The model you want to apply it to, to compare the bases."
                ),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="Everything that is known, a line each."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
                io.Image.Output(display_name="preview", tooltip="The picture in the file; grey when there is none."),
            ],
        )

    @classmethod
    def execute(cls, patch_file, forget_patch=None, model=None) -> io.NodeOutput:
        patch = patch_source.chosen(patch_file, forget_patch)
        found = _described(patch)
        if model is not None:
            found["this model"] = _fit(patch, model)
        text = "\n".join(f"{name}: {plain_text(value)}" for name, value in found.items() if value not in ("", None))
        concepts = [{k: v for k, v in c.items() if k != "embedding"} for c in patch.concepts]
        raw = {"concepts": concepts, "base": patch.base, "settings": patch.settings, "figures": patch.figures}
        about = {k: v for k, v in patch.about.items() if k != "preview"}
        return io.NodeOutput(
            text,
            json.dumps({**raw, "about": about}),
            preview_picture.as_image(patch.about.get("preview", "")),
            ui={"text": (text,)},
        )


class SaveForgetPatch(patch_source.PatchFileNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_SaveForgetPatch",
            display_name="Save Forget Patch",
            category=CATEGORY,
            description="Saves a patch with what you want to say of it: title, author, licence, notes, a preview picture.",
            is_output_node=True,
            inputs=[
                *patch_source.inputs(),
                io.String.Input("title", default="", tooltip="Empty: what it forgets."),
                io.String.Input("author", default="", tooltip="Who made it."),
                io.String.Input(
                    "licence", default="", tooltip="Under which licence others may use it, such as CC0-1.0."
                ),
                io.String.Input("notes", default="", multiline=True, tooltip="Anything a user should know."),
                io.Combo.Input("precision", options=list(DTYPES), default="fp16", tooltip="Precision of the factors."),
                io.Boolean.Input(
                    "embedding_keys",
                    default=False,
                    tooltip="Also store inverted concepts as bundle_emb keys, where ComfyUI and A1111 find an embedding in a LoRA file. diffusers refuses such files.",
                ),
                shared_inputs.patch_file("shared"),
                patch_source.connection(),
                io.Image.Input("preview", optional=True, tooltip="A picture for the file; scaled to 256 px."),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="Where it is, and how large.")],
        )

    @classmethod
    def execute(
        cls, patch_file, precision, embedding_keys, file_name, forget_patch=None, preview=None, **about
    ) -> io.NodeOutput:
        stem = files.check_file_name(file_name)
        if not stem:
            raise ForgetError("Expected a file name, got an empty text. Type one.")
        patch = patch_source.chosen(patch_file, forget_patch)
        said = {k: v.strip() for k, v in about.items() if v.strip()}
        if preview is not None:
            said["preview"] = preview_picture.of_image(preview)
        named = replace(patch, about={**patch.about, **said})
        saved = Saved(files.save_patch_file(named, stem, DTYPES[precision], embedding_keys))
        report = "\n".join(reports.saved(saved))
        return io.NodeOutput(report, ui={"text": (report,)})


def _described(patch: ForgetPatch) -> dict[str, Any]:
    ranks = [f.rank for f in patch.factors.values()]
    size = sum(f.up.numel() + f.down.numel() for f in patch.factors.values())
    plain = {k: v for k, v in patch.figures.items() if isinstance(v, (int, float, str))}
    return {
        "forgets": reports.forgotten(patch),
        "kind": ", ".join(sorted({str(c.get("kind", "")) for c in patch.concepts})),
        **{k: v for k, v in patch.about.items() if k != "preview"},
        "method": patch.settings.get("method", "unknown"),
        "seed": patch.settings.get("seed", "none: nothing random" if patch.settings else ""),
        "base": patch.base.get("architecture", "unknown"),
        "layers": f"{len(ranks)}, rank {min(ranks)} to {max(ranks)}, {size:,} numbers",
        "figures": ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in plain.items()),
        "settings": ", ".join(f"{k} {v}" for k, v in patch.settings.items() if not isinstance(v, (list, dict))),
        "made with": patch.tool,
    }


def _fit(patch: ForgetPatch, model: Any) -> str:
    """Whether the patch is for this model; raises ForgetError when it is for another architecture."""
    _, matched = host.apply_patch(model, patch, 0.0)
    base = fingerprint_of_weights(host.key_weights(model))
    connected.remember_base(base)
    why = base_difference(patch.base, base)
    known = "the same base" if patch.base else "base unknown (no metadata)"
    return f"{matched} of {len(patch.factors)} layers match; {f'warning: {why}' if why else known}"
