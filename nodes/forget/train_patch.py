"""Train Forget Patch: the node that makes a model forget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ...fmn_core.attacks.hardening import Hardening, forget_hardened
from ...fmn_core.attacks.search import Budget
from ...fmn_core.closed_form.forget import forget_closed_form
from ...fmn_core.closed_form.settings import PROJECTIONS, ClosedFormSettings
from ...fmn_core.concepts.concept import Concept, check_concepts, concept_from_text
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.tokens import END_TOKEN_CHOICES
from ...fmn_core.patch.patch import ForgetPatch
from ...fmn_core.training.augmentation import AugmentSettings
from ...fmn_core.training.forget import forget_by_gradient
from ...fmn_core.training.losses import LOSS_FORMS
from ...fmn_core.training.references import ImagePairs, References
from ...fmn_core.training.settings import TRAIN_CHOICES, GradientSettings, check_settings
from .. import host
from ..adapter import references
from ..adapter.model import ComfyModel
from ..host.node_api import CATEGORY, ForgetConceptType, ForgetPairsType, TrainingOptionsType, io
from ..ui import destination, pictures, reports, shared_inputs
from ..ui.forget_options import DEFAULTS, ForgetOptions
from ..web.monitor import Monitor
from ..web.progress import progress_callback

CLOSED_FORM, RESTEERING, VISUAL, BOTH = METHODS = (
    "closed form",
    "attention re-steering",
    "visual denoising",
    "re-steering and visual denoising",
)
AUTO = "auto"
PAIR_STEPS, PAIR_GUIDANCE = 20, 3.0
# Pictures of each concept that attacks on a closed form are made on where no images are connected.
ATTACKED_PICTURES = 8


def _required_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model that is to forget. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
        io.String.Input(
            "phrase",
            default="zebra",
            multiline=True,
            tooltip="What to forget: the name on the first line, synonyms on further lines. List synonyms to forget them too. "
            "embedding:NAME is an inverted concept. May be empty when concepts are connected.",
        ),
        shared_inputs.kind(),
        io.Combo.Input(
            "method",
            options=list(METHODS),
            default=METHODS[0],
            tooltip="Closed form: seconds, no images, no tuning. Attention re-steering: the paper's Algorithm 1, by gradient. "
            "Visual denoising: by gradient, on pairs the model makes itself.",
        ),
        *shared_inputs.preserve(),
    ]


def _gradient_inputs() -> list[Any]:
    return [
        io.Int.Input("steps", default=35, min=0, max=10000, tooltip="By gradient: training steps. Published: 35."),
        io.Float.Input(
            "learning_rate",
            default=0.0,
            min=0.0,
            max=1.0,
            step=1e-7,
            round=False,
            tooltip="By gradient: learning rate. 0: auto, on Stable Diffusion the pace of the published 2e-6 for full weights.",
        ),
        io.Int.Input(
            "rank",
            default=16,
            min=1,
            max=256,
            tooltip="LoRA rank. Closed form: the upper bound for each concept; the smallest rank that suffices is used.",
        ),
        io.Combo.Input(
            "train",
            options=[AUTO, *TRAIN_CHOICES],
            default=AUTO,
            tooltip="Which weights change. Auto: attn2 values for closed form, attn2 keys and values by gradient.",
        ),
        io.Combo.Input(
            "loss",
            options=list(LOSS_FORMS),
            default=LOSS_FORMS[0],
            tooltip="Attention re-steering: sum of squares (paper) or one norm over all layers (released code).",
        ),
        io.Combo.Input(
            "end_token",
            options=list(END_TOKEN_CHOICES),
            default="first",
            tooltip="By gradient: which end tokens count as the phrase's.",
        ),
        io.Float.Input(
            "target_mass",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="By gradient: stop when the concept's attention has fallen to this share. 0: run all steps.",
        ),
        shared_inputs.seed(),
        shared_inputs.patch_file("forget_zebra"),
    ]


def _optional_inputs() -> list[Any]:
    return [
        io.Image.Input(
            "images",
            optional=True,
            tooltip="Attention re-steering: pictures of the phrase's concept. Without them it trains on noise alone.",
        ),
        io.Vae.Input("vae", optional=True, tooltip="Encodes the images."),
        shared_inputs.templates(),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where in the images the concept is: only attention there is taken away. One, or one for each image.",
        ),
        ForgetConceptType.Input(
            "concepts", optional=True, tooltip="Concepts to forget in the same training, besides the phrase."
        ),
        ForgetPairsType.Input(
            "pairs",
            optional=True,
            tooltip="Visual denoising: pairs that were looked at. Without them, they are made here.",
        ),
        TrainingOptionsType.Input(
            "options", optional=True, tooltip="From Training Options, for the gradient methods, or Closed Form Options."
        ),
    ]


class TrainForgetPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_TrainForgetPatch",
            display_name="Train Forget Patch",
            category=CATEGORY,
            description="Makes a model forget a concept and saves what it learned as a small patch, an ordinary LoRA file.",
            is_output_node=True,
            inputs=[*_required_inputs(), *_gradient_inputs(), *_optional_inputs()],
            outputs=shared_inputs.patch_outputs(
                "The loss and the attention mass; for the closed form, target missed and drift per layer."
            ),
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        file_name,
        phrase,
        kind,
        method,
        preserve_prompts,
        preservation,
        steps,
        learning_rate,
        rank,
        train,
        loss,
        end_token,
        target_mass,
        seed,
        images=None,
        vae=None,
        templates="",
        mask=None,
        concepts=None,
        pairs=None,
        options: ForgetOptions | None = None,
    ) -> io.NodeOutput:
        file = destination.of_patch(file_name)
        options = options or DEFAULTS
        if train == AUTO:
            train = "values" if method == CLOSED_FORM else "keys and values"
        shared = {
            "train": train,
            "rank": rank,
            "preservation": preservation,
            "preserve_prompts": parse_lines(preserve_prompts),
        }
        with torch.inference_mode(False):
            adapter = ComfyModel(model, clip)
            # Connected concepts need none of the node's own.
            own_phrase = phrase.strip() or not concepts
            own = (
                concept_from_text(phrase, kind, templates or "", end_token, images=images, masks=mask)
                if own_phrase
                else None
            )
            chosen = references.joined(concepts, own)
            check_concepts(adapter, chosen)
            training = _Training(adapter, chosen, options, seed, vae, pairs)
            if method == CLOSED_FORM:
                _check_projections(train)
                patch = _closed_form(training, replace(options.closed_form, **shared))
            else:
                settings = replace(
                    options.gradient,
                    **shared,
                    **_loss_weights(method, options.gradient),
                    loss=loss,
                    steps=steps,
                    learning_rate=learning_rate,
                    seed=seed,
                    target_mass=target_mass,
                )
                patch = _by_gradient(training, settings)
            patch = patch.as_stored()
        patched, matched = host.apply_patch(model, patch, 1.0)
        saved = file.save_patch(patch)
        report = "\n".join([*saved.warning, reports.of_training(patch, matched, saved)])
        title = f"{method}: {', '.join(c.label() for c in chosen)}"
        return io.NodeOutput(patched, patch, pictures.plot_of(patch.figures, title), report, ui={"text": (report,)})


@dataclass(frozen=True)
class _Training:
    """What all methods need: the model, the concepts, and what was connected for them."""

    adapter: ComfyModel
    concepts: list[Concept]
    options: ForgetOptions
    seed: int
    vae: Any
    pairs: dict[Any, ImagePairs] | None

    @property
    def title(self) -> str:
        return ", ".join(concept.label() for concept in self.concepts)

    def references(self, augmentation: AugmentSettings, own_images: int) -> list[References]:
        """Latents of every concept's images, or of pictures that the model draws."""
        return [
            references.references_of(self.adapter, self.vae, concept, augmentation, self.seed, own_images)
            for concept in self.concepts
        ]


def _check_projections(train: str) -> None:
    if train not in PROJECTIONS:
        raise ForgetError(
            f"Expected the closed form to train {' or '.join(PROJECTIONS)}, got {train!r}. Choose one of these, auto, or a method by gradient."
        )


def _loss_weights(method: str, settings: GradientSettings) -> dict[str, float]:
    """The weights of the losses that a method uses; 0 for the other."""
    return {
        "attention_weight": settings.attention_weight if method in (RESTEERING, BOTH) else 0.0,
        "visual_weight": settings.visual_weight if method in (VISUAL, BOTH) else 0.0,
    }


def _closed_form(training: _Training, settings: ClosedFormSettings) -> ForgetPatch:
    adapter = training.adapter
    side = adapter.native_latent_size()
    size = (adapter.latent_channels(), side, side)
    if training.options.attack_rounds:
        hardening = Hardening(rounds=training.options.attack_rounds, budget=Budget(seed=training.seed))
        return _hardened(training, settings, hardening, size)
    bar, model = host.Progress(4), references.with_cache(adapter)
    with torch.no_grad():
        if settings.logit_shift:
            host.load(adapter.patcher)
        return forget_closed_form(
            model, training.concepts, settings, lambda done, total, figures: bar.update(done, total), size=size
        )


def _hardened(
    training: _Training, settings: ClosedFormSettings, hardening: Hardening, size: tuple[int, int, int]
) -> ForgetPatch:
    """The closed form between attacks on it, on the concepts' images or on pictures that the model draws."""
    adapter, concepts = training.adapter, training.concepts
    attacked = training.references(AugmentSettings(), ATTACKED_PICTURES)
    total = hardening.rounds * hardening.searches * hardening.budget.steps * len(concepts)
    title = f"attacks on {training.title}"
    with Monitor(title, total) as monitor, adapter.ready_for_gradients(text=True):
        progress = progress_callback(monitor, adapter, title)
        model = references.with_cache(adapter)
        return forget_hardened(model, concepts, attacked, settings, hardening, progress, size)


def _by_gradient(training: _Training, settings: GradientSettings) -> ForgetPatch:
    adapter, options = training.adapter, training.options
    check_settings(settings)
    pairs = _image_pairs(training) if settings.visual_weight > 0 else None
    latents = (
        training.references(options.augmentation, options.own_images)
        if pairs is None
        else [References(p.kept) for p in pairs]
    )
    model = references.with_cache(adapter)
    # The pairs are what the user's own MODEL draws, whatever precision it is trained in.
    with (
        Monitor(training.title, settings.steps) as monitor,
        adapter.ready_for_gradients(),
        host.computing_in(adapter.patcher, options.precision),
    ):
        progress = progress_callback(monitor, adapter, training.title)
        settings = replace(settings, checkpointing=settings.checkpointing or bool(adapter.recomputed_blocks()))
        return forget_by_gradient(model, training.concepts, latents, settings, progress, pairs)


def _image_pairs(training: _Training) -> list[ImagePairs]:
    """The connected pairs of every concept, or pairs made here."""
    adapter, concepts, connected = training.adapter, training.concepts, training.pairs
    if connected is None:
        with torch.no_grad():
            host.load(adapter.patcher)
            count, seed = training.options.pairs, training.seed
            return [references.pairs_of(adapter, c, count, PAIR_STEPS, PAIR_GUIDANCE, seed) for c in concepts]
    missing = [c.label() for c in concepts if references.identity(c) not in connected]
    if missing:
        raise ForgetError(
            f"Expected pairs of every concept, got none of {', '.join(missing)}. Give Visual Denoising Pairs the same concepts."
        )
    return [connected[references.identity(c)] for c in concepts]
