"""Concept Preset: loads concepts from a file that ships with the pack or is the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...fmn_core.concepts.concept import chain
from ...fmn_core.concepts.presets import SHIPPED, find_preset, list_presets, load_preset
from ...fmn_core.errors import ForgetError
from .. import host
from ..host.node_api import Menu, io
from ..ui import shared_inputs
from ..ui.listed_file import file_stamp, validation_result


class ConceptPreset(io.ComfyNode):
    """Adds the concepts of a preset to the chain."""

    @classmethod
    def define_schema(cls):
        names = list_presets(_preset_folders())
        inputs: list[Any] = [_preset_input(names), shared_inputs.previous_concepts()]
        return io.Schema(
            node_id="FMN_ConceptPreset",
            display_name="Concept Preset",
            category=Menu.CONCEPTS,
            description="Concepts from a file: unsafe content that ships with the pack, and your own lists in "
            "user/default/forget_me_not/presets.",
            inputs=inputs,
            outputs=[
                shared_inputs.concepts_output(),
                io.String.Output(
                    display_name="listing",
                    tooltip="What the preset holds, kind and phrases, and which file it is from.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, preset="", **inputs):
        try:
            return file_stamp(find_preset(preset, _preset_folders()))
        except (ForgetError, OSError):
            return ""

    @classmethod
    def validate_inputs(cls, preset=None):
        # The host does not check an input that validate_inputs names: a preset newer than the page's list is accepted.
        return preset is None or validation_result(load_preset, preset, _preset_folders())

    @classmethod
    def execute(cls, preset, previous=None) -> io.NodeOutput:
        with torch.inference_mode(False):
            loaded, source = load_preset(preset, _preset_folders()), _source(preset)
        return io.NodeOutput(chain(previous, loaded.concepts), f"{loaded.listing()}\n{source}")


def _preset_folders() -> list[Path]:
    return [host.preset_folder(), SHIPPED]


def _source(name: str) -> str:
    """One line on the file of a preset. On a shared server, anyone may have replaced a shipped preset by a file."""
    path = find_preset(name, _preset_folders())
    if path.parent == SHIPPED:
        return "from the pack's own presets"
    shadows = " in place of the one that ships with the pack" if (SHIPPED / path.name).is_file() else ""
    return f"from the user's file user/default/{host.PATCH_FOLDER}/presets/{path.name}{shadows}"


def _preset_input(names: list[str]) -> Any:
    default: Any = "nudity" if "nudity" in names else None
    return io.Combo.Input(
        "preset",
        options=names,
        default=default,
        tooltip="A list of concepts. A file of yours replaces the shipped one of the same name.",
    )
