"""Compare: draws the same prompts with two MODELs, before and after forgetting."""

from __future__ import annotations

from typing import Any

from ...fmn_core.concepts.concept import concept_from_dict
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..host.node_api import ForgetPatchType, Menu, io, schema
from ..ui import phrases, shared_inputs
from ..ui.pictures import to_image
from ..ui.temporary_images import save_images
from . import report_figure

MOST_PICTURES = 64


class Compare(io.ComfyNode):
    """Draws prompts with a MODEL as it was and as it is now."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="FMN_Compare",
            display_name="Compare",
            category=Menu.MAIN,
            description="Draws the same prompts and seeds with two models, before and after forgetting, and shows them under a slider.",
            search_aliases=["before and after", "side by side", "forget test"],
            is_output_node=True,
            inputs=[*_model_inputs(), *_drawing_inputs(), *_optional_inputs()],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="Every prompt in two rows: before above, after below."),
                io.Image.Output(display_name="before", tooltip="The pictures of the model as it was."),
                io.Image.Output(display_name="after", tooltip="The pictures of the model as it is now."),
            ],
        )

    @classmethod
    def execute(
        cls, before, after, clip, vae, prompts, seed, pictures, forget_patch=None, **drawing: Any
    ) -> io.NodeOutput:
        jobs, settings = _jobs(prompts, forget_patch, seed, pictures), host.Drawing(**drawing)
        images: dict[str, Any] = dict(
            zip(("before", "after"), host.draw([before, after], clip, vae, jobs, settings), strict=True)
        )
        grid = _grid(images, [prompt for prompt, _ in jobs][::pictures], settings, seed)
        shown = {f"fmn_{name}": save_images(batch, cls) for name, batch in images.items()}
        return io.NodeOutput(to_image(grid), images["before"], images["after"], ui=shown)


def _model_inputs() -> list[Any]:
    return [
        io.Model.Input("before", tooltip="The model as it was."),
        io.Model.Input("after", tooltip="The model that has forgotten."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
        io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
    ]


def _drawing_inputs() -> list[Any]:
    drawing = host.Drawing()
    return [
        io.String.Input(
            "prompts",
            default=f"a picture of a {phrases.PHRASE}",
            multiline=True,
            tooltip=f"One prompt per line. {phrases.PHRASE} is what the connected patch forgets.",
        ),
        shared_inputs.seed(),
        io.Int.Input(
            "pictures", default=1, min=1, max=16, tooltip="Pictures of each prompt, with seeds from this one on."
        ),
        io.Int.Input("steps", default=drawing.steps, min=1, max=200, tooltip="Sampling steps."),
        io.Float.Input(
            "cfg",
            default=drawing.cfg,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance, as in KSampler.",
        ),
        io.Combo.Input("sampler_name", options=host.samplers(), default=drawing.sampler_name, tooltip="The sampler."),
        io.Combo.Input("scheduler", options=host.schedulers(), default=drawing.scheduler, tooltip="The scheduler."),
        *(
            io.Int.Input(
                name, default=0, min=0, max=4096, step=8, tooltip="In pixels; 0: what the model was trained on."
            )
            for name in ("width", "height")
        ),
    ]


def _optional_inputs() -> list[Any]:
    negative = io.String.Input("negative", default="", optional=True, tooltip="The negative prompt of all pictures.")
    return [
        shared_inputs.advanced(negative),
        ForgetPatchType.Input(
            "forget_patch", optional=True, tooltip=f"The patch that {phrases.PHRASE} in the prompts is taken from."
        ),
    ]


def _jobs(prompts: str, patch: ForgetPatch | None, seed: int, pictures: int) -> list[tuple[str, int]]:
    """Prompt and seed of each picture; raises ForgetError on no prompt, or more than MOST_PICTURES pictures."""
    concepts = [c for c in map(concept_from_dict, patch.concepts) if c is not None] if patch else []
    lines = parse_lines(phrases.prompts_of(prompts, phrases.first_phrase(concepts)))
    if not 0 < len(lines) * pictures <= MOST_PICTURES:
        raise ForgetError(
            f"Expected 1 to {MOST_PICTURES} pictures of each model, got {len(lines)} prompts with {pictures} each. Change the prompts."
        )
    return [(line, seed + number) for line in lines for number in range(pictures)]


def _grid(images: dict[str, Any], prompts: list[str], drawing: host.Drawing, seed: int) -> Any:
    """The figure of all pictures, each prompt a panel."""
    each = len(images["before"]) // len(prompts)
    panels = [
        report_figure.picture_panel(prompt, {name: batch[k * each : (k + 1) * each] for name, batch in images.items()})
        for k, prompt in enumerate(prompts)
    ]
    facts = (
        f"{drawing.sampler_name}, {drawing.scheduler}, {drawing.steps} steps, cfg {drawing.cfg:g}, seeds from {seed}"
    )
    return report_figure.figure("before and after", facts, panels)
