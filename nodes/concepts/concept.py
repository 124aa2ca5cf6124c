"""Concept: describes one concept to forget; several can be chained into one training."""

from __future__ import annotations

from typing import Any

import torch

from ...fmn_core.concepts.concept import chain, concept_from_text
from ...fmn_core.concepts.embedding_file import load_embedding
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.tokens import END_TOKEN_CHOICES, LearnedEmbedding
from .. import host
from ..adapter.references import checked_images, checked_masks
from ..host.node_api import Menu, io
from ..ui import shared_inputs
from ..ui.listed_file import file_stamp, validation_result

NONE = "none"


class ConceptNode(io.ComfyNode):
    """Adds a concept to the chain."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_Concept",
            display_name="Concept",
            category=Menu.CONCEPTS,
            description="Says what to forget: its names, what kind of thing it is, and, if wanted, prompts, pictures and an "
            "embedding of it. Chain several to forget them in one training.",
            inputs=shared_inputs.with_advanced(
                [*_phrase_inputs(), *_reference_inputs(), shared_inputs.previous_concepts()],
                "end_token",
                "embedding",
                "templates",
            ),
            outputs=[shared_inputs.concepts_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, embedding=NONE, **inputs):
        try:
            return file_stamp(host.embedding_path(embedding)) if embedding != NONE else ""
        except (ForgetError, OSError):
            return ""

    @classmethod
    def validate_inputs(cls, embedding=NONE):
        # The host does not check an input that validate_inputs names. Its own message would list all files.
        return embedding in (NONE, None) or validation_result(host.embedding_path, embedding)

    @classmethod
    def execute(
        cls, phrases, kind, end_token, embedding, templates="", images=None, mask=None, previous=None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            pictures = None if images is None else checked_images(images)
            concept = concept_from_text(
                phrases,
                kind,
                templates,
                end_token,
                embedding=_learned_embedding(embedding),
                images=pictures,
                masks=checked_masks(mask, pictures),
            )
        return io.NodeOutput(chain(previous, [concept]))


def _learned_embedding(embedding: str) -> LearnedEmbedding | None:
    return None if embedding == NONE else load_embedding(host.embedding_path(embedding)).vectors


def _phrase_inputs() -> list[Any]:
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


def _reference_inputs() -> list[Any]:
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
