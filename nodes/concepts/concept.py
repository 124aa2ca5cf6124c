"""Concept and Concept Preset: what to forget, as data that one training takes several of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...fmn_core.concepts.concept import chain, concept_from_text
from ...fmn_core.concepts.embedding_file import load_embedding
from ...fmn_core.concepts.presets import SHIPPED, find_preset, list_presets, load_preset
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.tokens import END_TOKEN_CHOICES, LearnedEmbedding
from .. import host
from ..adapter.references import checked_images, checked_masks
from ..host.node_api import CATEGORY, ForgetConceptType, io
from ..ui import shared_inputs

NONE = "none"


class ConceptNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_Concept",
            display_name="Concept",
            category=CATEGORY,
            description="Says what to forget: its names, what kind of thing it is, and, if wanted, prompts, pictures and an "
            "embedding of it. Chain several to forget them in one training.",
            inputs=[*_words(), *_references(), _previous()],
            outputs=[_chain()],
        )

    @classmethod
    def fingerprint_inputs(cls, embedding=NONE, **inputs):
        try:
            return _version(host.embedding_path(embedding)) if embedding != NONE else ""
        except (ForgetError, OSError):
            return ""

    @classmethod
    def validate_inputs(cls, embedding=NONE):
        # Taking embedding here switches off the host's check against the list, whose message names all files.
        return embedding in (NONE, None) or _reason(host.embedding_path, embedding)

    @classmethod
    def execute(
        cls, phrases, kind, end_token, embedding, templates="", images=None, mask=None, previous=None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            pictures = None if images is None else checked_images(images)
            references = {"embedding": _word(embedding), "images": pictures, "masks": checked_masks(mask, pictures)}
            concept = concept_from_text(phrases, kind, templates, end_token, **references)
        return io.NodeOutput(chain(previous, [concept]))


class ConceptPreset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = list_presets(_folders())
        return io.Schema(
            node_id="FMN_ConceptPreset",
            display_name="Concept Preset",
            category=CATEGORY,
            description="Concepts from a file: unsafe content that ships with the pack, and your own lists in "
            "user/default/forget_me_not/presets.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=names,
                    default="nudity" if "nudity" in names else None,
                    tooltip="A list of concepts. A file of yours replaces the shipped one of the same name.",
                ),
                _previous(),
            ],
            outputs=[
                _chain(),
                io.String.Output(
                    display_name="listing",
                    tooltip="What the preset holds, kind and phrases, and which file it is from.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, preset="", **inputs):
        try:
            return _version(find_preset(preset, _folders()))
        except (ForgetError, OSError):
            return ""

    @classmethod
    def validate_inputs(cls, preset=None):
        # As for embeddings; and a preset that was added a moment ago can be named before the list is refreshed.
        return preset is None or _reason(load_preset, preset, _folders())

    @classmethod
    def execute(cls, preset, previous=None) -> io.NodeOutput:
        with torch.inference_mode(False):
            found, source = load_preset(preset, _folders()), _source(preset)
        return io.NodeOutput(chain(previous, found.concepts), f"{found.listing()}\n{source}")


def _folders() -> list[Path]:
    return [host.preset_folder(), SHIPPED]


def _source(name: str) -> str:
    """Where a preset is from: on a server that several people use, anyone may have put a file in place of a shipped one."""
    path = find_preset(name, _folders())
    if path.parent == SHIPPED:
        return "from the pack's own presets"
    shadows = " in place of the one that ships with the pack" if (SHIPPED / path.name).is_file() else ""
    return f"from the user's file user/default/{host.PATCH_FOLDER}/presets/{path.name}{shadows}"


def _version(path: Path) -> str:
    return f"{path} {host.file_version(path)}"


def _reason(check: Any, *values: Any) -> Any:
    """True when a check passes, else its message: what the host wants of validate_inputs."""
    try:
        check(*values)
    except (ForgetError, OSError) as error:
        return str(error)
    return True


def _word(embedding: str) -> LearnedEmbedding | None:
    return None if embedding == NONE else load_embedding(host.embedding_path(embedding)).word


def _words() -> list[Any]:
    return [
        io.String.Input(
            "phrases",
            default="zebra",
            multiline=True,
            tooltip="The name on the first line, synonyms on further lines. May be empty where an embedding is chosen.",
        ),
        shared_inputs.kind(),
        io.Combo.Input(
            "end_token",
            options=list(END_TOKEN_CHOICES),
            default="first",
            tooltip="Attention re-steering: which end tokens count as the concept's.",
        ),
    ]


def _references() -> list[Any]:
    return [
        io.Combo.Input(
            "embedding",
            options=[NONE, *host.embedding_files()],
            default=NONE,
            tooltip="A textual-inversion embedding in models/embeddings that means the concept, forgotten too. Only safetensors.",
        ),
        shared_inputs.templates(),
        io.Image.Input(
            "images", optional=True, tooltip="Attention re-steering: pictures of the concept, 8 x 8 or more."
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where in the pictures the concept is: one mask, or one for each, of any size.",
        ),
    ]


def _previous() -> Any:
    return ForgetConceptType.Input(
        "previous",
        optional=True,
        tooltip="Concepts from another Concept or Concept Preset node: all of them go into one training.",
    )


def _chain() -> Any:
    return ForgetConceptType.Output(
        display_name="FORGET_CONCEPT",
        tooltip="The concepts of the chain: those of `previous`, then those of this node.",
    )
