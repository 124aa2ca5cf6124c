"""Install Patch Embedding: saves the learned embeddings in a patch as files that prompts can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...fmn_core.concepts.concept import Concept, concept_from_dict
from ...fmn_core.concepts.embedding_file import SUFFIX, Embedding, check_embedding_name
from ...fmn_core.errors import ForgetError
from .. import host
from ..host import saving
from ..host.node_api import ForgetConceptType, Menu, io
from ..ui import patch_source, shared_inputs


class InstallPatchEmbedding(patch_source.PatchFileNode):
    """Saves the learned embeddings of a patch in models/embeddings."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_InstallPatchEmbedding",
            display_name="Install Patch Embedding",
            category=Menu.PATCHES,
            description="Puts the inverted concept that a patch carries into models/embeddings, so that prompts can name it: "
            "to see what the patch forgets, or to forget it on another model.",
            is_output_node=True,
            inputs=[
                patch_source.file_input(),
                io.String.Input(
                    "file_name",
                    default="from_patch",
                    tooltip=f"File under models/embeddings; {shared_inputs.NEVER_OVERWRITTEN}",
                ),
                patch_source.patch_input(),
            ],
            outputs=[
                ForgetConceptType.Output(display_name="concept", tooltip="The inverted concepts, for any forget node."),
                io.String.Output(display_name="embedding", tooltip="How a prompt names the first: embedding:NAME."),
                io.String.Output(display_name="report", tooltip="What was installed."),
            ],
        )

    @classmethod
    def execute(cls, patch_file, file_name, forget_patch=None) -> io.NodeOutput:
        stem = saving.check_file_name(file_name)
        if stem:
            check_embedding_name(stem + SUFFIX)
        patch = patch_source.chosen_patch(patch_file, forget_patch)
        with torch.inference_mode(False):
            inverted = tuple(_inverted_concept(recorded) for recorded in patch.concepts if recorded.get("embedding"))
        if not inverted:
            raise ForgetError(
                "Expected a patch that carries an inverted concept, got one without. Choose a patch that was trained on an embedding."
            )
        embeddings = [Embedding(c.embedding or {}, c.label(), c.kind, 0, patch.base) for c in inverted]
        names = [f"embedding:{path.stem}" for path in (_save_all(embeddings, stem) if stem else ())]
        report = f"installed {', '.join(names)}" if names else "not installed: no file name"
        return io.NodeOutput(inverted, names[0] if names else "", report, ui={"text": (report,)})


def _inverted_concept(recorded: dict[str, Any]) -> Concept:
    """The concept that a patch's metadata records; raises ForgetError if its vectors cannot be used."""
    concept = concept_from_dict(recorded)
    if concept is None:
        raise ForgetError(
            "Expected finite vectors for every inverted concept in the patch, got others. Nothing was installed; train the patch again."
        )
    return concept


def _save_all(embeddings: list[Embedding], stem: str) -> list[Path]:
    """Saves all embeddings, or none: if one fails, the new files are removed. Older files stay."""
    before = set(host.embedding_root().glob(f"*{SUFFIX}"))
    paths: list[Path] = []
    try:
        for embedding in embeddings:
            paths.append(saving.save_embedding_file(embedding, stem))
    except BaseException:
        for path in set(paths) - before:
            path.unlink(missing_ok=True)
        host.clear_file_lists()
        raise
    return paths
