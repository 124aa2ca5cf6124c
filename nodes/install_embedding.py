"""Install Patch Embedding: the inverted concept in a patch, as an embedding that prompts can name."""

from __future__ import annotations

import torch

from ..fmn_core.concept import concept_from_dict
from ..fmn_core.embedding_file import SUFFIX, Embedding, check_embedding_name
from ..fmn_core.errors import ForgetError
from . import files, patch_source, shared_inputs
from .api import CATEGORY, ForgetConceptType, io


class InstallPatchEmbedding(patch_source.PatchFileNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_InstallPatchEmbedding",
            display_name="Install Patch Embedding",
            category=CATEGORY,
            description="Puts the inverted concept that a patch carries into models/embeddings, so that prompts can name it: "
            "to see what the patch forgets, or to forget it on another model.",
            is_output_node=True,
            inputs=[
                *patch_source.inputs(),
                io.String.Input(
                    "file_name",
                    default="from_patch",
                    tooltip=f"File under models/embeddings; {shared_inputs.NEVER_OVERWRITTEN}",
                ),
                patch_source.connection(),
            ],
            outputs=[
                ForgetConceptType.Output(display_name="concept", tooltip="The inverted concepts, for any forget node."),
                io.String.Output(display_name="embedding", tooltip="How a prompt names the first: embedding:NAME."),
                io.String.Output(display_name="report", tooltip="What was installed."),
            ],
        )

    @classmethod
    def execute(cls, patch_file, file_name, forget_patch=None) -> io.NodeOutput:
        stem = files.check_file_name(file_name)
        if stem:
            check_embedding_name(stem + SUFFIX)
        patch = patch_source.chosen(patch_file, forget_patch)
        with torch.inference_mode(False):
            concepts = [concept_from_dict(saved) for saved in patch.concepts]
        found = tuple(c for c in concepts if c is not None and c.embedding is not None)
        if not found:
            raise ForgetError(
                "Expected a patch that carries an inverted concept, got one without. Choose a patch that was trained on an embedding."
            )
        names = []
        for concept in found if stem else ():
            embedding = Embedding(concept.embedding, concept.label(), concept.kind, 0, patch.base)
            path = files.save_embedding_file(embedding, stem)
            names.append(f"embedding:{path.stem}")
        report = f"installed {', '.join(names)}" if names else "not installed: no file name"
        return io.NodeOutput(found, names[0] if names else "", report, ui={"text": (report,)})
