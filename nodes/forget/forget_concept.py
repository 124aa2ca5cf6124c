"""Forget Concept: makes a model forget concepts in closed form, in seconds, and saves the patch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.closed_form.targets import SUBSTITUTE
from ...fmn_core.concepts.concept import Concept, check_concepts, concept_from_text
from ...fmn_core.concepts.preserve import without_concepts
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.patch import ForgetPatch
from .. import host
from ..adapter import references
from ..adapter.text import ComfyText
from ..adapter.transformer import closed_form_model
from ..host.node_api import ForgetConceptType, ForgetPatchType, Menu, TrainingOptionsType, io, schema
from ..ui import destination, phrases, preview_picture, reports, shared_inputs
from ..ui.forget_options import DEFAULTS, ForgetOptions
from ..ui.option_inputs import option_input
from ..ui.temporary_images import save_images
from .trainings import Training, closed_form

# Other words under which people look for this node.
ALIASES = ["forget", "erase", "unlearn", "remove concept", "concept erasing", "negative lora", "censor", "nsfw"]
TEST_SEED = 0


@dataclass(frozen=True)
class ForgetInputs:
    """Values of the node's widgets and optional inputs, without MODEL and CLIP."""

    forget: str
    kind: str
    draw_instead: str
    keep: str
    keep_strength: float
    save_as: str
    rank: int = ClosedFormSettings.rank
    templates: str = ""
    test_prompt: str = ""
    concepts: tuple[Concept, ...] | None = None
    vae: Any = None
    options: ForgetOptions | None = None

    def all_concepts(self) -> list[Concept]:
        """The connected concepts, then the typed one, if there is one."""
        typed = None
        if self.forget.strip() or not self.concepts:
            typed = concept_from_text(self.forget, self.kind, self.templates)
        return references.concepts_to_forget(self.concepts, typed)

    def settings(self) -> ClosedFormSettings:
        """Settings of the solve: those of the options, with the node's own in their place."""
        settings = replace(
            (self.options or DEFAULTS).closed_form,
            preserve_prompts=parse_lines(self.keep),
            preservation=self.keep_strength,
            rank=self.rank,
        )
        substitute = self.draw_instead.strip()
        return replace(settings, target=SUBSTITUTE, substitute=substitute) if substitute else settings


class ForgetConcept(io.ComfyNode):
    """The pack's main node."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="FMN_ForgetConcept",
            display_name="Forget Concept",
            category=Menu.MAIN,
            description="Makes a model forget a concept in seconds, without pictures, and saves what it learned as a small patch, an ordinary "
            "LoRA file. With a VAE connected it shows the test prompt before and after.",
            search_aliases=ALIASES,
            is_output_node=True,
            inputs=[*_main_inputs(), *_optional_inputs(), *_advanced_inputs()],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the patch applied."),
                ForgetPatchType.Output(
                    display_name="FORGET_PATCH", tooltip="The patch, for Apply Forget Patch and Compare."
                ),
                io.String.Output(display_name="report", tooltip="The verdict, then what was done and measured."),
            ],
        )

    @classmethod
    def execute(cls, model, clip, **widgets) -> io.NodeOutput:
        inputs = ForgetInputs(**widgets)
        concepts = inputs.all_concepts()
        file = destination.for_patch(phrases.file_name_of(inputs.save_as, concepts))
        test = phrases.test_prompt(inputs.test_prompt, concepts) if inputs.vae is not None else ""
        if inputs.vae is not None:
            host.check_vae(model, inputs.vae)
        with torch.inference_mode(False):
            adapter = closed_form_model(model, clip)
            check_concepts(adapter, concepts)
            settings = inputs.settings()
            _check_kept(adapter, concepts, settings.preserve_prompts)
            training = Training(adapter, concepts, inputs.options or DEFAULTS, TEST_SEED, inputs.vae, None)
            patch = closed_form(training, settings).as_stored()
        patched, matched = host.apply_patch(model, patch, 1.0)
        pictures = _pictures(cls, [model, patched], clip, inputs.vae, test)
        if pictures:
            patch = replace(patch, about={**patch.about, "preview": pictures.thumbnail})
        saved = file.save_patch(patch)
        report = _report(patch, matched, saved)
        shown = {
            "text": (report,),
            "fmn_related": (reports.related_names(patch),),
            **(pictures.files if pictures else {}),
        }
        return io.NodeOutput(patched, patch, report, ui=shown)


def _main_inputs() -> list[Any]:
    return [
        *shared_inputs.model_and_clip(),
        io.String.Input(
            "forget",
            default="zebra",
            multiline=True,
            tooltip="What to forget: the name on the first line, synonyms on further lines. embedding:NAME is an inverted concept. "
            "May be empty when concepts are connected.",
        ),
        shared_inputs.kind(),
        io.String.Input(
            "draw_instead",
            display_name="draw instead",
            default="",
            tooltip="What prompts with the name draw from now on, such as horse. Empty: what they would draw without the name.",
        ),
        option_input(ClosedFormSettings, "preserve_prompts", "keep"),
        option_input(ClosedFormSettings, "preservation", "keep_strength", display_name="keep strength"),
        shared_inputs.patch_file(shared_inputs.FILE_OF_PHRASE, "save_as", display_name="save as"),
    ]


def _optional_inputs() -> list[Any]:
    return [
        ForgetConceptType.Input("concepts", optional=True, tooltip="Further concepts to forget with the same patch."),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Draws the test prompt before and after, for the node and as the picture of the patch's file.",
        ),
        TrainingOptionsType.Input("options", optional=True, tooltip="From Closed Form Options."),
    ]


def _advanced_inputs() -> list[Any]:
    test_prompt = io.String.Input(
        "test_prompt",
        display_name="test prompt",
        default="",
        optional=True,
        tooltip=f"What is drawn where a VAE is connected; {phrases.PHRASE} is what is forgotten. Empty: a photo of it.",
    )
    inputs = [option_input(ClosedFormSettings, "rank", optional=True), shared_inputs.templates(), test_prompt]
    return [shared_inputs.advanced(made) for made in inputs]


def _check_kept(adapter: ComfyText, concepts: list[Concept], keep: list[str]) -> None:
    """Raises ForgetError on lines to keep that name a concept, because the same solve cannot keep and forget them."""
    kept = without_concepts(adapter, concepts, keep, keep)
    if contrary := [line for line in keep if line not in kept]:
        raise ForgetError(
            f"Expected lines to keep that do not name what is forgotten, got {contrary[0][:200]!r}. Remove the line. "
            "Names of other things with the word in them, such as hot dog for dog, may stand there."
        )


@dataclass(frozen=True)
class _TestPictures:
    """The test prompt before and after: files for the page, and the thumbnail of the patch."""

    files: dict[str, Any]
    thumbnail: str


def _pictures(cls: Any, models: list[Any], clip: Any, vae: Any, prompt: str) -> _TestPictures | None:
    if vae is None:
        return None
    drawing = host.Drawing(cfg=host.native_guidance(models[0]) or host.Drawing.cfg)
    before, after = host.draw(models, clip, vae, [(prompt, TEST_SEED)], drawing)
    files = {"fmn_before": save_images(before, cls), "fmn_after": save_images(after, cls)}
    return _TestPictures(files, preview_picture.encode_preview(torch.cat([before, after], dim=2)))


def _report(patch: ForgetPatch, matched: int, saved: destination.SaveResult) -> str:
    return "\n".join([*saved.warning, reports.verdict(patch), "", reports.training_report(patch, matched, saved)])
