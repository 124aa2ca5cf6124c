"""Train Forget Patch: the node that makes a model forget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..fmn_core.augment import AugmentSettings
from ..fmn_core.closed_form import PROJECTIONS, ClosedFormSettings, forget_closed_form
from ..fmn_core.concept import Concept, check_concepts, concept_from_text
from ..fmn_core.errors import ForgetError
from ..fmn_core.gradient import forget_by_gradient
from ..fmn_core.gradient_settings import TRAIN_CHOICES, GradientSettings, check_settings
from ..fmn_core.hardening import Hardening, check_hardening, forget_hardened
from ..fmn_core.losses import LOSS_FORMS
from ..fmn_core.patch import ForgetPatch
from ..fmn_core.references import Pairs, References
from ..fmn_core.scores.attack import Budget
from ..fmn_core.templates import parse_lines
from ..fmn_core.tokens import END_TOKEN_CHOICES
from . import destination, host, pictures, references, reports, shared_inputs
from .api import CATEGORY, ForgetConceptType, ForgetPairsType, TrainingOptionsType, io
from .closed_form_options import KEY as CLOSED_FORM_KEY
from .comfy_model import ComfyModel
from .monitor import Monitor
from .training_options import DEFAULTS

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
    def execute(cls, model, clip, file_name, **options) -> io.NodeOutput:
        file = destination.of_patch(file_name)
        with torch.inference_mode(False):
            adapter = ComfyModel(model, clip)
            concepts = references.joined(options.get("concepts"), _own_concept(options))
            check_concepts(adapter, concepts)
            train = _closed_form if options["method"] == CLOSED_FORM else _by_gradient
            patch = train(adapter, concepts, options).as_stored()
        patched, matched = host.apply_patch(model, patch, 1.0)
        saved = file.save_patch(patch)
        report = "\n".join([*saved.warning, reports.of_training(patch, matched, saved)])
        title = f"{options['method']}: {', '.join(c.label() for c in concepts)}"
        return io.NodeOutput(patched, patch, pictures.plot_of(patch.figures, title), report, ui={"text": (report,)})


def _own_concept(options: dict[str, Any]) -> Concept | None:
    """The concept of the node's own widgets; None where concepts are connected and the phrase is empty."""
    if not options["phrase"].strip() and options.get("concepts"):
        return None
    templates = options.get("templates") or ""
    return concept_from_text(
        options["phrase"],
        options["kind"],
        templates,
        options["end_token"],
        images=options.get("images"),
        masks=options.get("mask"),
    )


def _chosen_train(options: dict[str, Any]) -> str:
    if options["train"] != AUTO:
        return options["train"]
    return "values" if options["method"] == CLOSED_FORM else "keys and values"


def _closed_form(adapter: ComfyModel, concepts: list[Concept], options: dict[str, Any]) -> ForgetPatch:
    train = _chosen_train(options)
    if train not in PROJECTIONS:
        raise ForgetError(
            f"Expected the closed form to train {' or '.join(PROJECTIONS)}, got {train!r}. Choose one of these, auto, or a method by gradient."
        )
    chosen = dict((options.get("options") or {}).get(CLOSED_FORM_KEY, {}))
    rounds = chosen.pop("attack_rounds", 0)
    settings = ClosedFormSettings(
        train=train,
        preservation=options["preservation"],
        rank=options["rank"],
        preserve_prompts=parse_lines(options["preserve_prompts"]),
        **chosen,
    )
    side = adapter.native_latent_size()
    size = (adapter.latent_channels(), side, side)
    if rounds:
        return _hardened(
            adapter, concepts, settings, Hardening(rounds, budget=Budget(seed=options["seed"])), size, options
        )
    bar, model = host.Progress(4), references.with_cache(adapter)
    with torch.no_grad():
        if settings.logit_shift:
            host.load(adapter.patcher)
        return forget_closed_form(
            model, concepts, settings, lambda done, total, figures: bar.update(done, total), size=size
        )


def _hardened(
    adapter: ComfyModel,
    concepts: list[Concept],
    settings: ClosedFormSettings,
    hardening: Hardening,
    size: tuple[int, int, int],
    options: dict[str, Any],
) -> ForgetPatch:
    """The closed form between attacks on it, on the concepts' images or on pictures that the model draws."""
    check_hardening(hardening)
    made = [
        references.references_of(adapter, options.get("vae"), c, AugmentSettings(), options["seed"], ATTACKED_PICTURES)
        for c in concepts
    ]
    total = hardening.rounds * hardening.searches * hardening.budget.steps * len(concepts)
    title = f"attacks on {', '.join(c.label() for c in concepts)}"
    with Monitor(title, total) as monitor, adapter.ready_for_gradients(text=True):
        told = _told(monitor, adapter, title)
        return forget_hardened(references.with_cache(adapter), concepts, made, settings, hardening, told, size)


def _by_gradient(adapter: ComfyModel, concepts: list[Concept], options: dict[str, Any]) -> ForgetPatch:
    chosen = {**DEFAULTS, **(options.get("options") or {})}
    precision = chosen["precision"]
    settings = _gradient_settings(options, chosen)
    check_settings(settings)
    pairs = _pairs(adapter, concepts, options, chosen["pairs"]) if settings.visual_weight > 0 else None
    made = _references(adapter, concepts, options, chosen) if pairs is None else [References(p.kept) for p in pairs]
    title, core = ", ".join(c.label() for c in concepts), references.with_cache(adapter)
    # The pairs are what the user's own MODEL draws, whatever precision it is trained in.
    with (
        Monitor(title, settings.steps) as monitor,
        adapter.ready_for_gradients(),
        host.computing_in(adapter.patcher, precision),
    ):
        progress = _told(monitor, adapter, title)
        settings = replace(settings, checkpointing=settings.checkpointing or bool(adapter.recomputed_blocks()))
        return forget_by_gradient(core, concepts, made, settings, progress, pairs)


def _told(monitor: Monitor, adapter: ComfyModel, title: str) -> Callable[[int, int, dict], bool]:
    """What a training calls every step: curves in the node, and all figures in the page's monitor."""
    bar, series = host.Progress(monitor.state["total"]), {"loss": [], "attention mass": []}
    names = {"loss": "loss", "mass": "attention mass", "target": "target", "drift": "drift"}

    def progress(done: int, total: int, figures: dict) -> bool:
        for curve, name in (("loss", "loss"), ("attention mass", "mass")):
            if name in figures:
                series[curve].append(figures[name])
        bar.update(done, total, pictures.curves({k: v for k, v in series.items() if v}, total, title))
        latents = figures.get("preview")
        picture = None if latents is None else pictures.of_latents(adapter.patcher, latents)
        return monitor.update(done, {label: figures[k] for k, label in names.items() if figures.get(k)}, picture)

    return progress


def _gradient_settings(options: dict[str, Any], chosen: dict[str, Any]) -> GradientSettings:
    own = ("loss", "steps", "learning_rate", "rank", "seed", "preservation", "target_mass")
    shared = [n for n in GradientSettings.__dataclass_fields__ if n in chosen]
    weights = {
        "attention_weight": chosen["attention_weight"] if options["method"] in (RESTEERING, BOTH) else 0.0,
        "visual_weight": chosen["visual_weight"] if options["method"] in (VISUAL, BOTH) else 0.0,
    }
    return GradientSettings(
        train=_chosen_train(options),
        preserve_prompts=parse_lines(options["preserve_prompts"]),
        **{n: options[n] for n in own},
        **{**{n: chosen[n] for n in shared}, **weights},
    )


def _references(
    adapter: ComfyModel, concepts: list[Concept], options: dict[str, Any], chosen: dict[str, Any]
) -> list[References]:
    augment = AugmentSettings(**{n: chosen[n] for n in ("copies", "crop", "flip", "bucket")})
    vae, seed, own = options.get("vae"), options["seed"], chosen["own_images"]
    return [references.references_of(adapter, vae, c, augment, seed, own) for c in concepts]


def _pairs(adapter: ComfyModel, concepts: list[Concept], options: dict[str, Any], count: int) -> list[Pairs]:
    """The connected pairs of every concept, or pairs made here."""
    given = options.get("pairs")
    if given is None:
        with torch.no_grad():
            host.load(adapter.patcher)
            seed = options["seed"]
            return [references.pairs_of(adapter, c, count, PAIR_STEPS, PAIR_GUIDANCE, seed) for c in concepts]
    missing = [c.label() for c in concepts if references.identity(c) not in given]
    if missing:
        raise ForgetError(
            f"Expected pairs of every concept, got none of {', '.join(missing)}. Give Visual Denoising Pairs the same concepts."
        )
    return [given[references.identity(c)] for c in concepts]
