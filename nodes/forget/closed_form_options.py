"""Closed Form Options: what few people change about a closed-form solve."""

from __future__ import annotations

from ...fmn_core.attacks.hardening import MOST_ROUNDS
from ...fmn_core.closed_form.settings import PRECISIONS
from ...fmn_core.closed_form.targets import BY_KIND, TARGETS
from ...fmn_core.concepts.preserve import IMAGINED_WORDS
from ..host.node_api import CATEGORY, TrainingOptionsType, io

KEY = "closed_form"


def _target_inputs() -> list:
    return [
        io.Combo.Input(
            "target",
            options=list(TARGETS),
            default=TARGETS[0],
            tooltip="What a prompt with the phrase should act like: the prompt without it, nothing at the phrase's tokens, the empty prompt, "
            "or the prompt with the substitute in the phrase's place.",
        ),
        io.String.Input(
            "substitute", default="", tooltip="For the target substitute: what to draw instead, such as horse."
        ),
        io.Float.Input(
            "logit_shift",
            default=0.0,
            min=0.0,
            max=50.0,
            step=0.1,
            tooltip="tau: where keys are trained, lowers the attention logits of the phrase's tokens by this at every pixel, which takes a few "
            "passes of the UNet. 0: keys go where values go.",
        ),
    ]


def _solve_inputs() -> list:
    return [
        io.Int.Input(
            "robust_rounds",
            default=0,
            min=0,
            max=20,
            tooltip="Rounds that also forget the inputs which would bring the concept back (RECE). No proof against a search for others.",
        ),
        io.Combo.Input(
            "precision",
            options=list(PRECISIONS),
            default=next(iter(PRECISIONS)),
            tooltip="Where the system is solved. float32 is meant for GPUs; the report tells the system's condition.",
        ),
        io.Float.Input(
            "ridge",
            default=0.0,
            min=0.0,
            max=10.0,
            step=1e-6,
            round=False,
            tooltip="lambda, relative to the mean eigenvalue of the system. 0: chosen on held-out templates and prompts.",
        ),
        io.Float.Input(
            "preserve_weight",
            default=0.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            tooltip="Weight of preserve prompts against the concept. 0: chosen on held-out templates and prompts.",
        ),
        io.Int.Input(
            "imagined_words",
            default=IMAGINED_WORDS,
            min=0,
            max=4 * IMAGINED_WORDS,
            tooltip="Words that do not exist, preserved so that words in no list are kept too: so many for each concept, up to 1000 in all. Fewer are faster and keep less.",
        ),
        io.Boolean.Input("everyday_captions", default=True, tooltip="Preserve the built-in everyday captions."),
        io.Float.Input(
            "overshoot",
            default=BY_KIND,
            min=BY_KIND,
            max=3.0,
            step=0.05,
            tooltip="How much further than the target, away from the concept: 0 ends at the target, 0.5 goes half as far again. -1: 0.5 for a "
            "style, whose fallback may be drawn in that very style, and 0 for everything else.",
        ),
        io.Int.Input(
            "attack_rounds",
            default=0,
            min=0,
            max=MOST_ROUNDS,
            tooltip="Rounds that search, on the patched model and by gradient, for embeddings that bring the concept back, and forget them too. "
            "0: none, no gradient is needed. Searches on the connected images, or on pictures that the model draws.",
        ),
    ]


class ClosedFormOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_ClosedFormOptions",
            display_name="Closed Form Options (Forget-Me-Not)",
            category=CATEGORY,
            description="Target, keys, robustness and precision for Train Forget Patch's closed form.",
            inputs=[
                *_target_inputs(),
                *_solve_inputs(),
                TrainingOptionsType.Input(
                    "options", optional=True, tooltip="From Training Options, to have both on one wire."
                ),
            ],
            outputs=[
                TrainingOptionsType.Output(
                    display_name="options", tooltip="For the options input of Train Forget Patch."
                )
            ],
        )

    @classmethod
    def execute(cls, options=None, everyday_captions=True, **chosen) -> io.NodeOutput:
        own = {**chosen, "use_everyday_captions": everyday_captions}
        return io.NodeOutput({**(options or {}), KEY: own})
