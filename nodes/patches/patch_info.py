"""Forget Patch Info: shows the concepts, the origin and the figures of a patch."""

from __future__ import annotations

import json
from typing import Any

from ...fmn_core.errors import plain_text
from ...fmn_core.patch.patch import ForgetPatch, base_difference, fingerprint_of_weights
from .. import host
from ..adapter import connected
from ..host.node_api import Menu, io
from ..ui import patch_source, preview_picture, reports


class ForgetPatchInfo(patch_source.PatchFileNode):
    """Shows a patch's metadata as text, as JSON and as a picture."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ForgetPatchInfo",
            display_name="Forget Patch Info",
            category=Menu.PATCHES,
            description="Shows what a patch forgets, on which model and how it was made, by whom, and what was measured.",
            is_output_node=True,
            inputs=[
                patch_source.file_input(),
                patch_source.patch_input(),
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
        patch = patch_source.chosen_patch(patch_file, forget_patch)
        facts = _facts(patch)
        if model is not None:
            facts["this model"] = _fit_line(patch, model)
        text = "\n".join(f"{name}: {plain_text(value)}" for name, value in facts.items() if value not in ("", None))
        concepts = [{k: v for k, v in c.items() if k != "embedding"} for c in patch.concepts]
        metadata = {"concepts": concepts, "base": patch.base, "settings": patch.settings, "figures": patch.figures}
        about = {k: v for k, v in patch.about.items() if k != "preview"}
        return io.NodeOutput(
            text,
            json.dumps({**metadata, "about": about}),
            preview_picture.decode_preview(patch.about.get("preview", "")),
            ui={"text": (text,)},
        )


def _facts(patch: ForgetPatch) -> dict[str, Any]:
    """Values of the text's lines, by the name of each line."""
    ranks = [f.rank for f in patch.factors.values()]
    size = sum(f.up.numel() + f.down.numel() for f in patch.factors.values())
    scalars = {k: v for k, v in patch.figures.items() if isinstance(v, (int, float, str))}
    return {
        "forgets": reports.forgotten(patch),
        "kind": ", ".join(sorted({str(c.get("kind", "")) for c in patch.concepts})),
        **{k: v for k, v in patch.about.items() if k != "preview"},
        "method": patch.settings.get("method", "unknown"),
        "seed": patch.settings.get("seed", "none: nothing random" if patch.settings else ""),
        "base": patch.base.get("architecture", "unknown"),
        "layers": f"{len(ranks)}, rank {min(ranks)} to {max(ranks)}, {size:,} numbers",
        "figures": ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in scalars.items()),
        "settings": ", ".join(f"{k} {v}" for k, v in patch.settings.items() if not isinstance(v, (list, dict))),
        "made with": patch.tool,
    }


def _fit_line(patch: ForgetPatch, model: Any) -> str:
    """One line that compares the patch with a MODEL; raises ForgetError if the patch is for another architecture."""
    _, matched = host.apply_patch(model, patch, 0.0)
    base = fingerprint_of_weights(host.key_weights(model))
    connected.remember_base(base)
    difference = base_difference(patch.base, base)
    agreement = "the same base" if patch.base else "base unknown (no metadata)"
    return f"{matched} of {len(patch.factors)} layers match; {f'warning: {difference}' if difference else agreement}"
