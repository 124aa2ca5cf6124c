"""Attack Forget Patch: a test of one's own patch, a search for what brings the concept back."""

from __future__ import annotations

import time
from typing import Any

import torch

from ...fmn_core.attacks.search import Budget, search_embedding, search_tokens
from ...fmn_core.concepts.concept import Concept, concept_from_text
from ...fmn_core.concepts.embedding_file import Embedding
from ...fmn_core.concepts.templates import default_templates
from ...fmn_core.errors import ForgetError
from ...fmn_core.patch.patch import fingerprint
from ...fmn_core.training.augmentation import AugmentSettings
from .. import host
from ..adapter import references
from ..adapter.model import ComfyModel
from ..host.node_api import CATEGORY, ForgetConceptType, io
from ..ui import destination, pictures, reports, shared_inputs
from ..web.progress import search_progress

ATTACKS = ("embedding", "tokens")


def _inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model with your patch applied. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model. It is not changed."),
        io.Vae.Input("vae", tooltip="Encodes the images."),
        io.Image.Input("images", tooltip="Pictures of the concept, real or made by the model without the patch."),
        io.String.Input("phrase", default="", tooltip="The concept's name, where the search starts."),
        shared_inputs.kind(),
        io.Combo.Input(
            "attack",
            options=list(ATTACKS),
            default=ATTACKS[0],
            tooltip="Embedding: learns vectors, the strongest attack. Tokens: searches ordinary words, as somebody with only a prompt box "
            "could type them.",
        ),
        io.Int.Input(
            "steps", default=50, min=1, max=10000, tooltip="Steps of the search; more steps, stronger attack."
        ),
        io.Int.Input("batch", default=4, min=1, max=64, tooltip="Draws of noise per step."),
        io.Int.Input(
            "tokens", default=0, min=0, max=32, tooltip="Vectors or tokens to search; 0: as many as the phrase has."
        ),
        io.Int.Input(
            "candidates",
            default=16,
            min=1,
            max=512,
            tooltip="Words that a token search tries in each step; embedding: not used.",
        ),
        shared_inputs.seed(),
        io.String.Input(
            "file_name",
            default="my_attack",
            tooltip=f"File under models/embeddings for what the embedding attack finds; {shared_inputs.NEVER_OVERWRITTEN}",
        ),
    ]


class AttackForgetPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_AttackForgetPatch",
            display_name="Attack Forget Patch",
            category=CATEGORY,
            description="A test of your own patch: searches, within a budget of steps, an embedding or a text that brings the forgotten concept "
            "back. Sample with what it found and look, or score the pictures.",
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                ForgetConceptType.Output(
                    display_name="concept", tooltip="What was found, for any forget node: to forget it too."
                ),
                io.String.Output(
                    display_name="found",
                    tooltip="For a prompt: the words, or embedding:NAME. Empty where no file was saved.",
                ),
                io.Image.Output(display_name="plot", tooltip="The loss over the steps."),
                io.String.Output(
                    display_name="report", tooltip="What was searched, with which budget, and what was found."
                ),
            ],
        )

    @classmethod
    def execute(cls, model, clip, vae, images, phrase, kind, attack, file_name="", **options) -> io.NodeOutput:
        file = destination.of_embedding(file_name)
        if attack not in ATTACKS:
            raise ForgetError(f"Expected an attack of {', '.join(ATTACKS)}, got {attack!r}.")
        budget = Budget(**{name: options[name] for name in ("steps", "batch", "tokens", "candidates", "seed")})
        started, losses = time.perf_counter(), []
        with torch.inference_mode(False):
            adapter = ComfyModel(model, clip)
            images = references.checked_images(images)
            found = _search(adapter, vae, images, phrase, kind, attack, budget, losses)
            base = fingerprint(adapter)
        report = [
            f"{attack} attack: {len(losses)} steps of {budget.batch} draws, {time.perf_counter() - started:.1f} s"
        ]
        report.append(reports.fifths("loss", losses))
        plot = pictures.to_image(pictures.curves({"loss": losses}, budget.steps, f"{attack} attack"))
        if isinstance(found, str):
            concept, named = concept_from_text(found, kind, images=images), found
            report.append(f"found the text: {found}")
        else:
            concept = concept_from_text("", kind, embedding=found, images=images)
            saved = file.save_embedding(Embedding(found, phrase, kind, len(losses), base))
            named = f"embedding:{saved.path.stem}" if saved.path else ""
            report.append(
                f"found an embedding, in a prompt: {named}" if named else "found an embedding, not saved: no file name"
            )
            report = [*saved.warning, *(report[:-1] if saved.failure else report)]
        report.append(
            "sample prompts with it on the patched model: whether the concept is back is for the pictures to say"
        )
        text = "\n".join(report)
        return io.NodeOutput((concept,), named, plot, text, ui={"text": (text,)})


def _search(
    adapter: ComfyModel, vae: Any, images: Any, phrase: str, kind: str, attack: str, budget: Budget, losses: list[float]
) -> Any:
    """Runs the search with a progress bar and the loss as preview; returns a text or a word of vectors."""
    concept = Concept([], kind, [], images=images)
    made = references.encode_references(adapter, vae, concept, AugmentSettings(), budget.seed)
    arguments = (adapter, made, list(default_templates(kind)), phrase, budget)
    with search_progress("attack", budget.steps, losses) as progress, adapter.ready_for_gradients(text=True):
        if attack == "tokens":
            return search_tokens(*arguments, host.token_spellings(adapter.clip), progress)
        return search_embedding(*arguments, progress)
