"""What the wire FORGET_OPTIONS carries, from the option nodes to Train Forget Patch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...fmn_core.closed_form.settings import ClosedFormSettings
from ...fmn_core.training.augmentation import AugmentSettings
from ...fmn_core.training.settings import GradientSettings
from .. import host


def _both_losses() -> GradientSettings:
    # The method of Train Forget Patch decides which of the two losses is used.
    return GradientSettings(attention_weight=1.0, visual_weight=1.0)


@dataclass(frozen=True)
class ForgetOptions:
    """Options of a forget patch that few people change.

    Parameters
    ----------
    closed_form
        Settings of the closed form. Train Forget Patch fills in its own: train, rank, preservation, preserve prompts.
    attack_rounds
        Rounds of attacks on a closed form; 0: none.
    gradient
        Settings of a training by gradient, which Train Forget Patch completes likewise.
    augmentation
        Augmentation of the concepts' images.
    precision
        Precision of the UNet while it is trained by gradient, one of `host.PRECISIONS`.
    pairs
        Image pairs of each concept that are made where none are connected.
    own_images
        Pictures of each concept that the model draws where no images are connected; 0: one zero latent.
    """

    closed_form: ClosedFormSettings = field(default_factory=lambda: ClosedFormSettings())
    attack_rounds: int = 0
    gradient: GradientSettings = field(default_factory=_both_losses)
    augmentation: AugmentSettings = field(default_factory=lambda: AugmentSettings())
    precision: str = host.PRECISIONS[0]
    pairs: int = 4
    own_images: int = 0


DEFAULTS = ForgetOptions()
