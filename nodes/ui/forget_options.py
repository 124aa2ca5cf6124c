"""Options that the option nodes send to Forget Concept and Train Forget Patch on the type FORGET_OPTIONS."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.training.augmentation import AugmentSettings
from ...fmn_core.training.settings import GradientSettings
from .. import host


def _both_losses() -> GradientSettings:
    # The method of Train Forget Patch sets the weight of a loss that it does not use to 0.
    return GradientSettings(attention_weight=1.0, visual_weight=1.0)


@dataclass(frozen=True)
class ForgetOptions:
    """Options of a forget patch that few people change.

    Parameters
    ----------
    closed_form
        Settings of the closed form. Forget Concept replaces rank, preservation and preserve prompts by its inputs.
    attack_rounds
        Attack rounds on a closed form; 0: no attack.
    gradient
        Settings of a training by gradient. Train Forget Patch replaces those that are also its inputs.
    augmentation
        Augmentation of the concepts' images.
    precision
        Precision of the UNet while it is trained by gradient, one of `host.PRECISIONS`.
    pairs
        Number of image pairs to make for each concept where none are connected.
    own_images
        Number of pictures that the model draws of each concept where no images are connected; 0: one zero latent.
    """

    closed_form: ClosedFormSettings = field(default_factory=lambda: ClosedFormSettings())
    attack_rounds: int = 0
    gradient: GradientSettings = field(default_factory=_both_losses)
    augmentation: AugmentSettings = field(default_factory=lambda: AugmentSettings())
    precision: str = host.PRECISIONS[0]
    pairs: int = 4
    own_images: int = 0


DEFAULTS = ForgetOptions()
