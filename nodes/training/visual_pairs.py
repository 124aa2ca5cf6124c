"""Visual Denoising Pairs: samples the image pairs of the visual denoising loss and shows them before the training."""

from __future__ import annotations

import torch

from ...fmn_core.concepts.concept import check_concepts, concept_from_text
from ...fmn_core.model.tokens import END_TOKEN_CHOICES
from ...fmn_core.training.references import PAIR_GUIDANCE, PAIR_STEPS, ImagePairs
from .. import host
from ..adapter import references
from ..adapter.transformer import TrainedModel, trained_model
from ..host.node_api import ForgetConceptType, ForgetPairsType, Menu, io
from ..ui import pictures, shared_inputs
from ..ui.forget_options import DEFAULTS


class VisualDenoisingPairs(io.ComfyNode):
    """Node that samples the image pairs of the visual denoising loss and shows them."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_VisualDenoisingPairs",
            display_name="Visual Denoising Pairs",
            category=Menu.TRAINING,
            description="Samples pictures of a concept twice, same seed and prompt, with the model's attention and with the "
            "concept's attention zeroed: what the visual denoising loss steers to. Look at them before training.",
            inputs=[
                io.Model.Input("model", tooltip="The model that makes its own pairs. It is not changed."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
                io.Vae.Input("vae", tooltip="Decodes the pairs for the picture."),
                io.String.Input(
                    "phrase", default="zebra", multiline=True, tooltip="The concept: name, then synonyms, one per line."
                ),
                shared_inputs.kind(),
                io.Combo.Input(
                    "end_token",
                    options=list(END_TOKEN_CHOICES),
                    default="all",
                    tooltip="Which end tokens are zeroed with the phrase. All is strongest.",
                ),
                io.Int.Input("count", default=DEFAULTS.pairs, min=1, max=64, tooltip="Pairs for each concept."),
                io.Int.Input("steps", default=PAIR_STEPS, min=1, max=200, tooltip="Sampling steps of a pair."),
                io.Float.Input(
                    "guidance",
                    default=PAIR_GUIDANCE,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Classifier-free guidance of a pair.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the first pair.",
                ),
                ForgetConceptType.Input(
                    "concepts", optional=True, tooltip="Concepts to make pairs of, besides the phrase."
                ),
            ],
            outputs=[
                ForgetPairsType.Output(display_name="pairs", tooltip="For the pairs input of Train Forget Patch."),
                io.Image.Output(display_name="picture", tooltip="Kept above, zeroed below, one column a pair."),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, phrase, kind, end_token, count, steps, guidance, seed, concepts=None
    ) -> io.NodeOutput:
        typed_concept = concept_from_text(phrase, kind, end_token=end_token) if phrase.strip() else None
        all_concepts = references.concepts_to_forget(concepts, typed_concept)
        with torch.inference_mode(False), torch.no_grad():
            adapter = trained_model(model, clip)
            check_concepts(adapter, all_concepts)
            host.load(model)
            pairs = [references.image_pairs(adapter, c, count, steps, guidance, seed) for c in all_concepts]
        pairs_by_concept = {c.key(): p for c, p in zip(all_concepts, pairs)}
        return io.NodeOutput(pairs_by_concept, pictures.pair_rows([_decode_pairs(adapter, vae, p) for p in pairs]))


def _decode_pairs(adapter: TrainedModel, vae, pairs: ImagePairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, H, W, 3) with the concept's attention kept, and with it zeroed."""
    return adapter.decode_latents(vae, pairs.kept), adapter.decode_latents(vae, pairs.zeroed)
