"""Training Options: what few people change about a training by gradient."""

from __future__ import annotations

from ...fmn_core.training.losses import VISUAL_WEIGHTINGS
from ...fmn_core.training.settings import OPTIMISERS, SCHEDULES
from ...fmn_core.training.trainable import WEIGHT_FORMS
from ..host import PRECISIONS
from ..host.node_api import CATEGORY, TrainingOptionsType, io

# Without this node; the same as its widgets' defaults.
DEFAULTS = {
    "weights": WEIGHT_FORMS[0],
    "precision": PRECISIONS[0],
    "optimiser": "AdamW",
    "schedule": SCHEDULES[0],
    "weight_decay": 0.01,
    "clip": 1.0,
    "accumulation": 1,
    "checkpointing": False,
    "attention_weight": 1.0,
    "visual_weight": 1.0,
    "visual_weighting": VISUAL_WEIGHTINGS[0],
    "first_level": 0.0,
    "last_level": 1.0,
    "pairs": 4,
    "drift_every": 10,
    "drift_warning": 0.05,
    "drift_limit": 0.0,
    "own_images": 0,
    "copies": 1,
    "crop": 0.0,
    "flip": False,
    "bucket": 0,
    "preview_every": 0,
}


def _number(kind, name: str, low: float, high: float, step: float, tooltip: str):
    extra = {} if kind is io.Int else {"round": False}
    return kind.Input(name, default=DEFAULTS[name], min=low, max=high, step=step, tooltip=tooltip, **extra)


def _choice(name: str, options, tooltip: str):
    return io.Combo.Input(name, options=list(options), default=DEFAULTS[name], tooltip=tooltip)


def _weight_inputs() -> list:
    return [
        _choice(
            "weights",
            WEIGHT_FORMS,
            "LoRA factors of the node's rank, or whole weights reduced to it by SVD afterwards.",
        ),
        _choice("precision", PRECISIONS, "Precision of the UNet while training; factors are always fp32."),
        _choice("optimiser", OPTIMISERS, "Optimiser from torch. Published: AdamW."),
        _choice("schedule", SCHEDULES, "How the learning rate changes over the steps. Published: constant."),
        _number(io.Float, "weight_decay", 0.0, 1.0, 0.001, "Weight decay of the optimiser. Published: 0.01."),
        _number(io.Float, "clip", 0.001, 1000.0, 0.1, "Largest norm of the gradient. Published: 1."),
        _number(io.Int, "accumulation", 1, 256, 1, "Draws whose gradients are averaged in one step."),
        io.Boolean.Input(
            "checkpointing",
            default=DEFAULTS["checkpointing"],
            tooltip="Gradient checkpointing: less memory, a third more time.",
        ),
    ]


def _loss_inputs() -> list:
    return [
        _number(
            io.Float,
            "attention_weight",
            0.0,
            1000.0,
            0.05,
            "Weight of the re-steering loss where both losses are used.",
        ),
        _number(
            io.Float, "visual_weight", 0.0, 1000.0, 0.05, "Weight of the visual denoising loss where both are used."
        ),
        _choice(
            "visual_weighting",
            VISUAL_WEIGHTINGS,
            "Weight of noise levels in the visual loss: min-SNR damps the noisy ones.",
        ),
        _number(io.Float, "first_level", 0.0, 1.0, 0.01, "Lowest noise level drawn, 0 is clean."),
        _number(io.Float, "last_level", 0.0, 1.0, 0.01, "Highest noise level drawn, 1 is pure noise."),
        _number(io.Int, "pairs", 1, 64, 1, "Pairs that are made for the visual loss when none are connected."),
        _number(
            io.Int, "drift_every", 0, 1000, 1, "Steps between two looks at the drift of preserve prompts; 0: never."
        ),
        _number(io.Float, "drift_warning", 0.0, 10.0, 0.001, "Drift above which the report warns; 0: never."),
        _number(io.Float, "drift_limit", 0.0, 10.0, 0.001, "Drift at which the training stops; 0: never."),
    ]


def _image_inputs() -> list:
    return [
        _number(
            io.Int,
            "own_images",
            0,
            64,
            1,
            "Attention re-steering without images: pictures of the concept that the model makes itself. 0: noise alone.",
        ),
        _number(io.Int, "copies", 1, 64, 1, "Augmented copies of each image; the first is the image itself."),
        _number(io.Float, "crop", 0.0, 0.9, 0.01, "Largest share of each side that a random crop takes away."),
        io.Boolean.Input("flip", default=DEFAULTS["flip"], tooltip="Mirror copies at random."),
        _number(
            io.Int,
            "bucket",
            0,
            4096,
            8,
            "Resolution bucket: images are cut to its nearest aspect ratio. 0: their own size.",
        ),
    ]


def _preview_input() -> list:
    text = "Steps between two quick pictures of what the model still draws, shown while it trains; 0: never."
    # Optional, so that prompts from before it was there still run.
    return [io.Int.Input("preview_every", default=0, min=0, max=1000, optional=True, tooltip=text)]


class TrainingOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_TrainingOptions",
            display_name="Training Options (Forget-Me-Not)",
            category=CATEGORY,
            description="Optimiser, precision, losses, drift monitor and image augmentation for Train Forget Patch's gradient methods.",
            inputs=[*_weight_inputs(), *_loss_inputs(), *_image_inputs(), *_preview_input()],
            outputs=[
                TrainingOptionsType.Output(
                    display_name="options", tooltip="For the options input of Train Forget Patch."
                )
            ],
        )

    @classmethod
    def execute(cls, **options) -> io.NodeOutput:
        return io.NodeOutput(options)
