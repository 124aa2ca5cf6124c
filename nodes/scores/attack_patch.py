"""Attack Forget Patch: searches for an embedding or a text that brings a forgotten concept back."""

from __future__ import annotations

import time
from typing import Any

import torch

from ...fmn_core.attacks.search import ATTACK_STEPS, Budget, search_embedding, search_tokens
from ...fmn_core.concepts.concept import Concept, concept_from_text
from ...fmn_core.concepts.embedding_file import Embedding
from ...fmn_core.concepts.templates import default_templates
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.tokens import LearnedEmbedding
from ...fmn_core.patch.patch import fingerprint
from ...fmn_core.training.augmentation import AugmentSettings
from .. import host
from ..adapter import references
from ..adapter.transformer import TrainedModel, trained_model
from ..host.node_api import ForgetConceptType, Menu, io
from ..ui import destination, pictures, reports, shared_inputs
from ..ui.option_inputs import option_input, option_inputs
from ..web.progress import search_progress

EMBEDDING, TOKENS = ATTACKS = ("embedding", "tokens")


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
            default=EMBEDDING,
            tooltip="Embedding: learns vectors, the strongest attack. Tokens: searches ordinary words, as somebody with only a prompt box "
            "could type them.",
        ),
        option_input(Budget, "steps", default=ATTACK_STEPS),
        *option_inputs(Budget, "batch", "tokens", "candidates"),
        shared_inputs.seed(),
        io.String.Input(
            "file_name",
            default="my_attack",
            tooltip=f"File under models/embeddings for what the embedding attack finds; {shared_inputs.NEVER_OVERWRITTEN}",
        ),
    ]


class AttackForgetPatch(io.ComfyNode):
    """Attacks a patched model within a budget."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_AttackForgetPatch",
            display_name="Attack Forget Patch",
            category=Menu.MEASURE,
            description="A test of your own patch: searches, within a budget of steps, an embedding or a text that brings the forgotten concept "
            "back. Sample with what it found and look, or score the pictures.",
            is_output_node=True,
            inputs=shared_inputs.with_advanced(_inputs(), "batch", "tokens", "candidates"),
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
    def execute(
        cls, model, clip, vae, images, phrase, kind, attack, steps, batch, tokens, candidates, seed, file_name=""
    ) -> io.NodeOutput:
        file = destination.for_embedding(file_name)
        if attack not in ATTACKS:
            raise ForgetError(f"Expected an attack of {', '.join(ATTACKS)}, got {attack!r}.")
        budget = Budget(steps=steps, batch=batch, tokens=tokens, candidates=candidates, seed=seed)
        started, losses = time.perf_counter(), []
        with torch.inference_mode(False):
            adapter = trained_model(model, clip)
            images = references.checked_images(images)
            words = _search(adapter, vae, images, phrase, kind, attack, budget, losses)
            base = fingerprint(adapter)
        seconds = time.perf_counter() - started
        if isinstance(words, str):
            concept, prompt_name = concept_from_text(words, kind, images=images), words
            warning, result_lines = [], [f"found the text: {words}"]
        else:
            concept = concept_from_text("", kind, embedding=words, images=images)
            saved = file.save_embedding(Embedding(words, phrase, kind, len(losses), base))
            prompt_name = f"embedding:{saved.path.stem}" if saved.path else ""
            warning, result_lines = saved.warning, _embedding_lines(saved, prompt_name)
        lines = [
            *warning,
            f"{attack} attack: {len(losses)} steps of {budget.batch} draws, {seconds:.1f} s",
            reports.loss_trend("loss", losses),
            *result_lines,
            "sample prompts with it on the patched model: whether the concept is back is for the pictures to say",
        ]
        plot = pictures.to_image(pictures.curves({"loss": losses}, budget.steps, f"{attack} attack"))
        report = "\n".join(lines)
        return io.NodeOutput((concept,), prompt_name, plot, report, ui={"text": (report,)})


def _embedding_lines(saved: destination.SaveResult, prompt_name: str) -> list[str]:
    """The report's line on the embedding; empty where saving failed, which the report's first line says."""
    if saved.failure:
        return []
    return [
        f"found an embedding, in a prompt: {prompt_name}"
        if prompt_name
        else "found an embedding, not saved: no file name"
    ]


def _search(
    adapter: TrainedModel,
    vae: Any,
    images: Any,
    phrase: str,
    kind: str,
    attack: str,
    budget: Budget,
    losses: list[float],
) -> str | LearnedEmbedding:
    """Runs the search with a progress bar; appends the loss of each step to `losses`. Returns a text or learned vectors."""
    concept = Concept([], kind, [], images=images)
    latents = references.encode_references(adapter, vae, concept, AugmentSettings(), budget.seed)
    arguments = (adapter, latents, list(default_templates(kind)), phrase, budget)
    with search_progress("attack", budget.steps, losses) as progress, adapter.ready_for_gradients(text=True):
        if attack == TOKENS:
            return search_tokens(*arguments, host.token_spellings(adapter.clip), progress)
        return search_embedding(*arguments, progress)
