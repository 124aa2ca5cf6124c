"""Train Forget Patch: the node that makes a model forget."""

from __future__ import annotations

from typing import Any

import torch

from ..fmn_core.closed_form import PROJECTIONS, ClosedFormSettings, forget_closed_form
from ..fmn_core.concept import Concept, make_concept
from ..fmn_core.errors import ForgetError
from ..fmn_core.patch import ForgetPatch
from ..fmn_core.resteer import LOSS_FORMS, TRAIN_CHOICES, ResteerSettings, forget_by_resteering
from ..fmn_core.templates import KINDS, parse_lines
from ..fmn_core.tokens import END_TOKEN_CHOICES
from . import files, host, pictures
from .api import CATEGORY, ForgetPatchType, io
from .comfy_model import ComfyModel

METHODS = ("closed form", "attention re-steering")
AUTO = "auto"
# auto: what each method does best with
DEFAULT_TRAIN = {"closed form": "values", "attention re-steering": "keys and values"}


def _inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model that is to forget. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP that belongs to the model."),
        io.String.Input(
            "phrase",
            default="zebra",
            multiline=True,
            tooltip="What to forget: the name on the first line, synonyms on further lines. List synonyms to forget them too.",
        ),
        io.Combo.Input(
            "kind",
            options=list(KINDS),
            default="object",
            tooltip="Chooses the prompt templates: an object or animal, a person or character, a style.",
        ),
        io.Combo.Input(
            "method",
            options=list(METHODS),
            default=METHODS[0],
            tooltip="Closed form: seconds, no images, no tuning. Attention re-steering: the paper's Algorithm 1, by gradient.",
        ),
        io.String.Input(
            "preserve_prompts",
            default="",
            multiline=True,
            tooltip="Prompts or words to keep as they are, one per line; neighbours of the concept help most. Everyday captions are always included.",
        ),
        io.Float.Input(
            "preservation",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="How much keeping counts against forgetting; 1 is balanced.",
        ),
        io.Int.Input(
            "steps", default=35, min=0, max=10000, tooltip="Attention re-steering: training steps. Published: 35."
        ),
        io.Float.Input(
            "learning_rate",
            default=0.0,
            min=0.0,
            max=1.0,
            step=1e-7,
            round=False,
            tooltip="Attention re-steering: learning rate of the LoRA factors. 0: auto, on Stable Diffusion the pace of the published 2e-6 for full weights.",
        ),
        io.Int.Input(
            "rank",
            default=32,
            min=1,
            max=256,
            tooltip="LoRA rank. Closed form: the upper bound; the smallest rank that suffices is used.",
        ),
        io.Combo.Input(
            "train",
            options=[AUTO, *TRAIN_CHOICES],
            default=AUTO,
            tooltip="Which weights change. Auto: attn2 values for closed form, attn2 keys and values for re-steering.",
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
            tooltip="Attention re-steering: which end tokens count as the concept's.",
        ),
        io.Float.Input(
            "target_mass",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Attention re-steering: stop when the concept's attention has fallen to this share. 0: run all steps.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFF,
            control_after_generate=False,
            tooltip="Seed of everything random; the same seed gives the same file.",
        ),
        io.String.Input(
            "file_name",
            default="forget_zebra",
            tooltip="File under models/loras/forget_me_not; empty: no file. An existing file is never overwritten.",
        ),
        io.Image.Input(
            "images",
            optional=True,
            tooltip="Attention re-steering: pictures of the concept. Without them it trains on noise alone.",
        ),
        io.Vae.Input("vae", optional=True, tooltip="Encodes the images."),
        io.String.Input(
            "templates",
            default="",
            multiline=True,
            optional=True,
            tooltip="Your own prompt templates, one per line with {} for the phrase. Empty: built-in ones for the kind.",
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
            inputs=_inputs(),
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the patch applied."),
                ForgetPatchType.Output(display_name="FORGET_PATCH", tooltip="The patch, for Apply Forget Patch."),
                io.Image.Output(
                    display_name="plot",
                    tooltip="The loss and the attention mass; for the closed form, target missed and drift per layer.",
                ),
                io.String.Output(display_name="report", tooltip="What was done and measured, in words."),
            ],
        )

    @classmethod
    def execute(cls, model, clip, file_name, **options) -> io.NodeOutput:
        stem = files.check_file_name(file_name)
        with torch.inference_mode(False):
            adapter = ComfyModel(model, clip)
            phrase, kind, templates = options["phrase"], options["kind"], options.get("templates") or ""
            concept = make_concept(adapter, phrase, kind, templates)
            train = {METHODS[0]: _closed_form, METHODS[1]: _resteer}[options["method"]]
            patch = train(adapter, concept, options).as_stored()
        patched, matched = host.apply_patch(model, patch, 1.0)
        path = files.save_under_free_name(patch, stem) if stem else None
        report = _report(patch, matched, path)
        title = f"{options['method']}: {', '.join(concept.phrases)}"
        return io.NodeOutput(patched, patch, pictures.plot_of(patch.figures, title), report, ui={"text": (report,)})


def _chosen_train(options: dict[str, Any]) -> str:
    return DEFAULT_TRAIN[options["method"]] if options["train"] == AUTO else options["train"]


def _closed_form(adapter: ComfyModel, concept: Concept, options: dict[str, Any]) -> ForgetPatch:
    train = _chosen_train(options)
    if train not in PROJECTIONS:
        raise ForgetError(
            f"Expected the closed form to train {' or '.join(PROJECTIONS)}, got {train!r}. Choose one of these, auto, or attention re-steering."
        )
    settings = ClosedFormSettings(
        train=train,
        preservation=options["preservation"],
        rank=options["rank"],
        preserve_prompts=parse_lines(options["preserve_prompts"]),
    )
    bar = host.Progress(4)
    return forget_closed_form(adapter, [concept], settings, lambda done, total, figures: bar.update(done, total))


def _resteer(adapter: ComfyModel, concept: Concept, options: dict[str, Any]) -> ForgetPatch:
    names = ("loss", "end_token", "steps", "learning_rate", "rank", "seed", "preservation", "target_mass")
    settings = ResteerSettings(
        train=_chosen_train(options),
        preserve_prompts=parse_lines(options["preserve_prompts"]),
        **{n: options[n] for n in names},
    )
    latents = _latents(adapter, options.get("images"), options.get("vae"))
    bar, series = host.Progress(settings.steps), {"loss": [], "attention mass": []}

    def progress(done: int, total: int, figures: dict[str, float]) -> None:
        series["loss"].append(figures["loss"])
        series["attention mass"].append(figures["mass"])
        bar.update(done, total, pictures.curves(series, total, ", ".join(concept.phrases)))

    with adapter.ready_for_gradients():
        return forget_by_resteering(adapter, [concept], latents, settings, progress)


def _latents(adapter: ComfyModel, images: torch.Tensor | None, vae: Any) -> torch.Tensor:
    """Latents of the reference images, or one zero latent at the model's native size (`no_real_image`)."""
    if images is None:
        size = adapter.native_latent_size()
        return torch.zeros(1, adapter.latent_channels(), size, size)
    if vae is None:
        raise ForgetError("Expected a VAE to encode the images, got none. Connect a VAE, or disconnect the images.")
    if images.shape[0] == 0 or min(images.shape[1:3]) < 8 or images.shape[-1] < 3:
        raise ForgetError(
            f"Expected RGB images of at least 8 x 8 pixels, got {list(images.shape)}. Connect other images."
        )
    return adapter.encode_images(vae, images)


def _report(patch: ForgetPatch, matched: int, path: Any) -> str:
    f = patch.figures
    lines = [
        f"method: {patch.settings['method']}",
        f"forgets: {', '.join(p for c in patch.concepts for p in c['phrases'])}",
    ]
    if "layers" in f:
        missed, drift = ([layer[k] for layer in f["layers"].values()] for k in ("missed", "drift"))
        lines += [
            f"share of the target missed: mean {sum(missed) / len(missed):.3f}, worst layer {max(missed):.3f}",
            f"preserve prompts moved by: mean {sum(drift) / len(drift):.4f}, worst layer {max(drift):.4f}",
            f"on held-out templates and prompts: missed {f['held_out_missed']:.3f}, moved {f['held_out_drift']:.4f}",
            f"rank {f['rank']}, energy left behind {f['rank_residual']:.1e}; lambda {f['ridge']:g}, preserve weight {f['preserve_weight']:g}",
        ]
    else:
        lines += [
            f"steps: {f['steps']}, learning rate {f['learning_rate']:.2g}, loss {f['losses'][0]:.4g} -> {f['losses'][-1]:.4g}",
            f"attention mass on the concept: {f['mass'][0]:.4f} -> {f['mass'][-1]:.4f}",
            f"preserve prompts' keys and values moved by {f['preserve_drift']:.4f}",
        ]
    lines += [f"matched {matched} layers in {f['seconds']:.1f} s"]
    lines += (
        [f"saved {path.parent.name}/{path.name}, {path.stat().st_size / 1000:.0f} kB"]
        if path
        else ["not saved: no file name"]
    )
    return "\n".join(lines)
