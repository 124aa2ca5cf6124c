"""Forgetting Report: compares pictures before and after forgetting, and draws all measurements in one figure."""

from __future__ import annotations

import json
from typing import Any

import torch

from ...fmn_core import __version__
from ...fmn_core.errors import ForgetError, plain_text
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..host.node_api import ForgetPatchType, ForgetScoresType, Menu, io
from ..ui import pictures, reports
from ..ui.mask_overlay import check_images
from ..ui.temporary_images import save_images
from . import report_figure
from .save_report import save_report
from .score_table import check_scores

PREFIX = "forget_me_not/report"
_NO_PATCH = ForgetPatch({}, [], {}, {}, tool="")


class ForgetReport(io.ComfyNode):
    """Shows and saves a comparison of pictures before and after forgetting."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ForgetReport",
            display_name="Forgetting Report",
            category=Menu.MAIN,
            description="Compares pictures of the same prompts and seeds before and after forgetting: a slider in the node, and one "
            "figure with all of them, the scores, the attention and the curves of the training, saved as PNG and JSON.",
            is_output_node=True,
            inputs=[
                io.Image.Input("before", tooltip="Pictures of the model as it was."),
                io.Image.Input("after", tooltip="Pictures of the same prompts and seeds with the patch, as many."),
                ForgetPatchType.Input(
                    "forget_patch",
                    optional=True,
                    tooltip="The patch, for the figure's title and, where it was trained by gradient, the curves of its training.",
                ),
                *_optional_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="figure", tooltip="All pictures, before above after, and whatever else is connected."
                ),
                io.String.Output(display_name="report", tooltip="The same in numbers, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        before,
        after,
        forget_patch=None,
        scores=None,
        attention_before=None,
        attention_after=None,
        filename_prefix=PREFIX,
    ) -> io.NodeOutput:
        sides, scores = _pairs(before, after), check_scores(scores)
        attention = {
            label: _checked_pictures(images)
            for label, images in (("before", attention_before), ("after", attention_after))
            if images is not None
        }
        drift = float(((sides["after"] - sides["before"]) ** 2).mean())
        figure = _figure(sides, attention, forget_patch, scores, drift)

        def report(file_name: str) -> str:
            return _report(forget_patch or _NO_PATCH, scores, drift, file_name)

        # Temporary files come first: if they fail, no report is saved.
        previews = {f"fmn_{name}": save_images(side, cls) for name, side in sides.items()}
        prefix = filename_prefix.strip()
        text = save_report(figure, prefix, host.png_metadata(cls), report) if prefix else report("")
        return io.NodeOutput(pictures.to_image(figure), text, ui=previews)


def _optional_inputs() -> list[Any]:
    return [
        ForgetScoresType.Input("scores", optional=True, tooltip="What the score nodes measured, for a table."),
        io.Image.Input(
            "attention_before", optional=True, tooltip="From Concept Attention Map, with the model as it was."
        ),
        io.Image.Input("attention_after", optional=True, tooltip="From Concept Attention Map, with the patched model."),
        io.String.Input(
            "filename_prefix",
            default=PREFIX,
            optional=True,
            tooltip="Where in the output folder the figure (PNG) and its numbers (JSON) go; numbered, no file is ever "
            "overwritten. Empty: not saved.",
        ),
    ]


def _checked_pictures(images: torch.Tensor) -> torch.Tensor:
    """Pictures (N, H, W, 3) as float32 on the CPU; raises ForgetError on ones that cannot be drawn."""
    return check_images(images).detach().cpu().float()


def _pairs(before: torch.Tensor, after: torch.Tensor) -> dict[str, torch.Tensor]:
    """Both batches by name; raises ForgetError if their numbers or sizes differ."""
    sides = {"before": _checked_pictures(before), "after": _checked_pictures(after)}
    if sides["before"].shape != sides["after"].shape:
        got = " and ".join(f"{len(s)} of {s.shape[2]} x {s.shape[1]}" for s in sides.values())
        raise ForgetError(
            f"Expected as many pictures of one size before and after, got {got}. Use the same batch and size."
        )
    return sides


def _figure(
    sides: dict[str, torch.Tensor],
    attention: dict[str, torch.Tensor],
    patch: ForgetPatch | None,
    scores: list[dict[str, Any]],
    drift: float,
) -> Any:
    """The figure: pictures, attention, scores and curves of the training, as far as they are connected."""
    training = report_figure.training_panel(patch.figures) if patch else None
    panels = [
        report_figure.picture_panel("pictures", sides),
        *([report_figure.picture_panel("attention", attention)] if attention else []),
        *([report_figure.score_panel(scores)] if scores else []),
        *([training] if training else []),
    ]
    facts = [f"mean squared drift of the pictures {drift:.4g}", f"comfyui-forget-me-not {__version__}"]
    if patch is None:
        return report_figure.figure("before and after", "; ".join(facts), panels)
    patch_facts = (patch.settings.get("method", "method unknown"), patch.base.get("architecture", "base unknown"))
    facts = [*(plain_text(fact, 200) for fact in patch_facts), *facts]
    return report_figure.figure(f"forgets: {reports.forgotten(patch)}", "; ".join(facts), panels)


def _report(patch: ForgetPatch, scores: list[dict[str, Any]], drift: float, file_name: str) -> str:
    """The report as JSON. JSON has no infinity or NaN, so such numbers become strings."""
    report = {
        "version": __version__,
        "concepts": [{k: v for k, v in c.items() if k != "embedding"} for c in patch.concepts],
        "settings": patch.settings,
        "base": patch.base,
        "figures": patch.figures,
        "scores": scores,
        "mean_squared_drift": drift,
        "figure": file_name,
    }
    finite = json.loads(json.dumps(report), parse_constant=str)
    return json.dumps(finite, indent=2, sort_keys=True, allow_nan=False)
