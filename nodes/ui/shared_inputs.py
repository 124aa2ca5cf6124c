"""Inputs and outputs that several nodes have, with one name, range and tooltip each."""

from __future__ import annotations

from typing import Any

from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.concepts.templates import KINDS
from ...fmn_core.training.settings import GradientSettings
from ..host.node_api import ForgetConceptType, ForgetPatchType, io
from .option_inputs import option_input
from .phrases import PHRASE

NEVER_OVERWRITTEN = "empty: no file. An existing file is never overwritten."
FILE_OF_PHRASE = f"forget_{PHRASE}"


def advanced(made: Any) -> Any:
    """Marks an input as one that the page shows after a click on "advanced" only; older pages have it in the node's menu."""
    made.extra_dict = {**(made.extra_dict or {}), "advanced": True}
    return made


def with_advanced(inputs: list[Any], *names: str) -> list[Any]:
    """The inputs, of which those with the given names are marked as `advanced`."""
    return [advanced(made) if made.id in names else made for made in inputs]


def model_and_clip() -> list[Any]:
    """The model that a node makes forget, and its CLIP."""
    return [
        io.Model.Input("model", tooltip="The model that is to forget. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
    ]


def kind() -> Any:
    """The kind of a concept, which chooses its templates."""
    return io.Combo.Input(
        "kind",
        options=list(KINDS),
        default="object",
        tooltip="Chooses the prompt templates: an object or animal, a person or character, a style, unsafe content.",
    )


def seed() -> Any:
    return option_input(GradientSettings, "seed", control_after_generate=False)


def preserve(**preservation: Any) -> list[Any]:
    """The prompts to keep and the weight of keeping them; `preservation` changes the weight's input as in option_input."""
    return [
        option_input(ClosedFormSettings, "preserve_prompts"),
        option_input(ClosedFormSettings, "preservation", **preservation),
    ]


def templates() -> Any:
    """The optional box for the user's own templates."""
    return io.String.Input(
        "templates",
        default="",
        multiline=True,
        optional=True,
        tooltip="Your own prompt templates, one per line with {} for the phrase. Empty: built-in ones for the kind.",
    )


def patch_file(default: str, input_name: str = "file_name", **changes: Any) -> Any:
    """The name of the file that a patch is saved to; `changes` are further arguments of the input."""
    phrase = f" {PHRASE} is what is forgotten." if PHRASE in default else ""
    tooltip = f"File under models/loras/forget_me_not; {NEVER_OVERWRITTEN}{phrase}"
    return io.String.Input(input_name, default=default, tooltip=tooltip, **changes)


def patch_outputs(plot: str) -> list[Any]:
    """Outputs of a node that trains a patch; `plot` is the tooltip of its plot."""
    return [
        io.Model.Output(display_name="MODEL", tooltip="The model with the patch applied."),
        ForgetPatchType.Output(display_name="FORGET_PATCH", tooltip="The patch, for Apply Forget Patch."),
        io.Image.Output(display_name="plot", tooltip=plot),
        io.String.Output(display_name="report", tooltip="What was done and measured, in words."),
    ]


def percent_input(name: str, default: float, tooltip: str) -> Any:
    """An input for a share of the sampling, 0..1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def previous_concepts() -> Any:
    """The optional input for the concepts of other nodes in the chain."""
    return ForgetConceptType.Input(
        "previous",
        optional=True,
        tooltip="Concepts from another Concept or Concept Preset node: all of them go into one training.",
    )


def concepts_output() -> Any:
    """The output of all concepts of the chain, those of this node last."""
    return ForgetConceptType.Output(
        display_name="FORGET_CONCEPT",
        tooltip="The concepts of the chain: those of `previous`, then those of this node.",
    )
