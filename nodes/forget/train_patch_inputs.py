"""The inputs of Train Forget Patch, and their values when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.concepts.concept import Concept, concept_from_text
from ...fmn_core.model.tokens import END_TOKEN_CHOICES
from ...fmn_core.training.references import ImagePairs
from ...fmn_core.training.settings import TRAIN_CHOICES, GradientSettings
from ..host.node_api import ForgetConceptType, ForgetPairsType, TrainingOptionsType, io
from ..ui import shared_inputs
from ..ui.forget_options import ForgetOptions
from ..ui.option_inputs import fine_input, option_input

RESTEERING, VISUAL, BOTH = GRADIENT_METHODS = (
    "attention re-steering",
    "visual denoising",
    "re-steering and visual denoising",
)
# Graphs saved before Forget Concept existed solve in closed form with this node.
CLOSED_FORM = "closed form"
METHODS = (*GRADIENT_METHODS, CLOSED_FORM)
AUTO = "auto"


@dataclass(frozen=True)
class TrainInputs:
    """Values of the node's widgets and of its connected inputs, without MODEL, CLIP and the file name."""

    phrase: str
    kind: str
    method: str
    preserve_prompts: str
    preservation: float
    steps: int
    learning_rate: float
    rank: int
    train: str
    loss: str
    end_token: str
    target_mass: float
    seed: int
    images: torch.Tensor | None = None
    vae: Any = None
    templates: str = ""
    mask: torch.Tensor | None = None
    concepts: tuple[Concept, ...] | None = None
    pairs: dict[Any, ImagePairs] | None = None
    options: ForgetOptions | None = None

    def typed_concept(self) -> Concept | None:
        """The concept that the phrase widget names; None where the phrase is empty and concepts are connected."""
        if not self.phrase.strip() and self.concepts:
            return None
        return concept_from_text(
            self.phrase, self.kind, self.templates or "", self.end_token, images=self.images, masks=self.mask
        )

    def unused(self) -> list[str]:
        """Lines of the report on what is connected and has no effect with the chosen method."""
        without = {
            CLOSED_FORM: {"pairs": self.pairs},
            RESTEERING: {"pairs": self.pairs},
        }.get(self.method, {"images": self.images, "mask": self.mask})
        names = [name for name, value in without.items() if value is not None]
        return [f"connected, but not used by {self.method}: {', '.join(names)}"] if names else []

    def trained_weights(self) -> str:
        """Which weights change; the method decides where the user chose auto."""
        if self.train != AUTO:
            return self.train
        return "values" if self.method == CLOSED_FORM else "keys and values"


def train_inputs() -> list[Any]:
    """All inputs of the node. Their order is fixed, because saved graphs store widget values by position."""
    inputs = [*_required_inputs(), *_gradient_inputs(), *_optional_inputs()]
    return shared_inputs.with_advanced(inputs, "train", "loss", "end_token", "target_mass", "templates")


def _required_inputs() -> list[Any]:
    return [
        *shared_inputs.model_and_clip(),
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
            options=list(GRADIENT_METHODS),
            default=RESTEERING,
            tooltip="Attention re-steering: the paper's Algorithm 1. Visual denoising: on pairs that the model makes itself. "
            "Forget Concept solves in closed form, in seconds.",
        ),
        *shared_inputs.preserve(),
    ]


def _gradient_inputs() -> list[Any]:
    return [
        option_input(GradientSettings, "steps", min=0),
        fine_input(GradientSettings, "learning_rate"),
        option_input(ClosedFormSettings, "rank"),
        io.Combo.Input(
            "train",
            options=[AUTO, *TRAIN_CHOICES],
            default=AUTO,
            tooltip="Which weights change. Auto: keys and values of the cross-attention, in FLUX.1 and SD 3 what reads text.",
        ),
        option_input(GradientSettings, "loss"),
        io.Combo.Input(
            "end_token",
            options=list(END_TOKEN_CHOICES),
            default=Concept.end_token,
            tooltip="By gradient: which end tokens count as the phrase's.",
        ),
        option_input(GradientSettings, "target_mass"),
        shared_inputs.seed(),
        shared_inputs.patch_file(shared_inputs.FILE_OF_PHRASE),
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
