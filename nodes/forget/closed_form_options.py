"""Closed Form Options: what few people change about a closed-form solve."""

from __future__ import annotations

from dataclasses import replace

from ...fmn_core.attacks.hardening import Hardening
from ...fmn_core.closed_form.settings import ClosedFormSettings
from ..host.node_api import Menu, TrainingOptionsType, io
from ..ui.forget_options import DEFAULTS, ForgetOptions
from ..ui.option_inputs import fine_input, option_input, option_inputs


class ClosedFormOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ClosedFormOptions",
            display_name="Closed Form Options (Forget-Me-Not)",
            category=Menu.TRAINING,
            description="Target, attack rounds and precision for Forget Concept.",
            inputs=[
                *option_inputs(ClosedFormSettings, "target", "substitute", "precision"),
                fine_input(ClosedFormSettings, "ridge"),
                *option_inputs(ClosedFormSettings, "preserve_weight", "imagined_words"),
                option_input(ClosedFormSettings, "use_everyday_captions", "everyday_captions"),
                option_input(ClosedFormSettings, "overshoot"),
                option_input(Hardening, "rounds", "attack_rounds", default=0, min=0),
                *option_inputs(ClosedFormSettings, "vocabulary_words", "synonyms", optional=True),
                TrainingOptionsType.Input(
                    "options", optional=True, tooltip="From Training Options, to have both on one wire."
                ),
            ],
            outputs=[
                TrainingOptionsType.Output(display_name="options", tooltip="For the options input of Forget Concept.")
            ],
        )

    @classmethod
    def execute(
        cls, options: ForgetOptions | None = None, everyday_captions=True, attack_rounds=0, **closed_form
    ) -> io.NodeOutput:
        settings = ClosedFormSettings(use_everyday_captions=everyday_captions, **closed_form)
        return io.NodeOutput(replace(options or DEFAULTS, closed_form=settings, attack_rounds=attack_rounds))
