"""Training Options: the rarely changed options of a training by gradient."""

from __future__ import annotations

from typing import Any

from ...fmn_core.training.augmentation import AugmentSettings
from ...fmn_core.training.settings import GradientSettings
from ..host import PRECISIONS
from ..host.node_api import Menu, TrainingOptionsType, io
from ..ui.forget_options import DEFAULTS, ForgetOptions
from ..ui.option_inputs import fine_input, option_input, option_inputs


def _weight_inputs() -> list[Any]:
    return [
        option_input(GradientSettings, "weights"),
        io.Combo.Input(
            "precision",
            options=list(PRECISIONS),
            default=DEFAULTS.precision,
            tooltip="Precision of the UNet while training; factors are always fp32.",
        ),
        *option_inputs(GradientSettings, "optimiser", "schedule"),
        *_fine_inputs(GradientSettings, "weight_decay", "clip"),
        option_input(GradientSettings, "accumulation", step=1),
        option_input(GradientSettings, "checkpointing"),
    ]


def _loss_inputs() -> list[Any]:
    return [
        fine_input(GradientSettings, "attention_weight"),
        fine_input(GradientSettings, "visual_weight", default=DEFAULTS.gradient.visual_weight),
        option_input(GradientSettings, "visual_weighting"),
        *_fine_inputs(GradientSettings, "first_level", "last_level"),
        io.Int.Input(
            "pairs",
            default=DEFAULTS.pairs,
            min=1,
            max=64,
            step=1,
            tooltip="Pairs that are made for the visual loss when none are connected.",
        ),
        option_input(GradientSettings, "drift_every", step=1),
        *_fine_inputs(GradientSettings, "drift_warning", "drift_limit"),
    ]


def _image_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "own_images",
            default=DEFAULTS.own_images,
            min=0,
            max=64,
            step=1,
            tooltip="Attention re-steering without images: pictures of the concept that the model makes itself. 0: noise alone.",
        ),
        option_input(AugmentSettings, "copies", step=1),
        fine_input(AugmentSettings, "crop"),
        *option_inputs(AugmentSettings, "flip", "bucket"),
    ]


def _preview_input() -> Any:
    # Optional, so that saved prompts without this input still run.
    return option_input(GradientSettings, "preview_every", optional=True)


def _fine_inputs(cls: type, *names: str) -> list[Any]:
    return [fine_input(cls, name) for name in names]


class TrainingOptions(io.ComfyNode):
    """Node that sets the rarely changed options of a training by gradient."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_TrainingOptions",
            display_name="Training Options (Forget-Me-Not)",
            category=Menu.TRAINING,
            description="Optimiser, precision, losses, drift monitor and image augmentation for Train Forget Patch.",
            inputs=[*_weight_inputs(), *_loss_inputs(), *_image_inputs(), _preview_input()],
            outputs=[
                TrainingOptionsType.Output(
                    display_name="options", tooltip="For the options input of Train Forget Patch."
                )
            ],
        )

    @classmethod
    def execute(cls, precision, pairs, own_images, copies, crop, flip, bucket, **gradient) -> io.NodeOutput:
        options = ForgetOptions(
            gradient=GradientSettings(**gradient),
            augmentation=AugmentSettings(copies=copies, crop=crop, flip=flip, bucket=bucket),
            precision=precision,
            pairs=pairs,
            own_images=own_images,
        )
        return io.NodeOutput(options)
