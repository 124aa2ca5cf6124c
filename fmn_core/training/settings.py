"""Settings of a training by gradient, with their checks and the automatic learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch

from ..errors import ForgetError
from ..options import option, options
from .losses import LossForm, VisualWeighting
from .trainable import WeightForm

TrainedWeights = Literal["values", "keys", "keys and values", "attn2", "whole UNet"]
Optimiser = Literal["AdamW", "Adam", "RAdam", "Adafactor", "SGD"]
Schedule = Literal["constant", "linear", "cosine"]
TRAIN_CHOICES: tuple[TrainedWeights, ...] = get_args(TrainedWeights)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
OPTIMISERS: dict[Optimiser, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "RAdam": torch.optim.RAdam,
    "Adafactor": torch.optim.Adafactor,
    "SGD": torch.optim.SGD,
}
MOST_SEED = 2**32 - 1
SEED_HELP = "Seed of everything random; the same seed gives the same file."
AUTO_RATE = 0.0
PUBLISHED_RATE = 2e-6  # of full weights, for Stable Diffusion
SMALL_MODEL_RATE = 1e-2  # of factors of rank 8, measured on models with a conditioning narrower than SD's
# Measured on the miniature: at fifty times this scale nothing is forgotten, without the term the other concepts are lost.
PRESERVATION_SCALE = 0.2


@options
class GradientSettings:
    """Settings of a training by gradient; the defaults are Algorithm 1 of Forget-Me-Not on LoRA factors.

    Notes
    -----
    The loss is w_attn L_attn + w_vis L_vis. Where both are used, each is divided by its initial value: the attention loss by its
    first value, the visual loss by visual_scale. The preservation term is the squared relative movement of the preserve prompts' keys
    and values, times `preservation`, PRESERVATION_SCALE and the loss's initial value.
    """

    train: TrainedWeights = option(default="keys and values", help="Which weights change.")
    weights: WeightForm = option(
        default="LoRA", help="LoRA factors of the node's rank, or whole weights reduced to it by SVD afterwards."
    )
    loss: LossForm = option(
        default="paper",
        help="Attention re-steering: sum of squares (paper) or one norm over all layers (released code).",
    )
    attention_weight: float = option(
        default=1.0,
        help="Weight of the re-steering loss where both losses are used.",
        minimum=0.0,
        maximum=1000.0,
        step=0.05,
    )
    visual_weight: float = option(
        default=0.0,
        help="Weight of the visual denoising loss where both are used.",
        minimum=0.0,
        maximum=1000.0,
        step=0.05,
    )
    visual_weighting: VisualWeighting = option(
        default="min-SNR", help="Weight of noise levels in the visual loss: min-SNR damps the noisy ones."
    )
    first_level: float = option(
        default=0.0, help="Lowest noise level drawn, 0 is clean.", minimum=0.0, maximum=1.0, step=0.01
    )
    last_level: float = option(
        default=1.0, help="Highest noise level drawn, 1 is pure noise.", minimum=0.0, maximum=1.0, step=0.01
    )
    steps: int = option(default=35, help="By gradient: training steps. Published: 35.", minimum=1, maximum=10_000)
    accumulation: int = option(
        default=1, help="Draws whose gradients are averaged in one step.", minimum=1, maximum=256
    )
    learning_rate: float = option(
        default=AUTO_RATE,
        help="By gradient: learning rate. 0: auto, on Stable Diffusion the pace of the published 2e-6 for full weights.",
        minimum=0.0,
        maximum=1.0,
        step=1e-7,
    )
    optimiser: Optimiser = option(default="AdamW", help="Optimiser from torch. Published: AdamW.")
    schedule: Schedule = option(
        default="constant", help="How the learning rate changes over the steps. Published: constant."
    )
    weight_decay: float = option(
        default=0.01, help="Weight decay of the optimiser. Published: 0.01.", minimum=0.0, maximum=1.0, step=0.001
    )
    clip: float = option(
        default=1.0, help="Largest norm of the gradient. Published: 1.", minimum=0.001, maximum=1000.0, step=0.1
    )
    rank: int = option(default=8, help="LoRA rank.", minimum=1, maximum=256)
    seed: int = option(default=0, help=SEED_HELP, minimum=0, maximum=MOST_SEED)
    checkpointing: bool = option(default=False, help="Gradient checkpointing: less memory, a third more time.")
    preservation: float = option(
        default=1.0,
        help="How much keeping counts against forgetting; 1 is balanced, more keeps more.",
        minimum=0.0,
        maximum=100.0,
        step=0.05,
    )
    target_mass: float = option(
        default=0.0,
        help="By gradient: stop when the concept's attention has fallen to this share. 0: run all steps.",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
    )
    drift_every: int = option(
        default=10, help="Steps between two looks at the drift of preserve prompts; 0: never.", minimum=0, maximum=1000
    )
    drift_warning: float = option(
        default=0.05, help="Drift above which the report warns; 0: never.", minimum=0.0, maximum=10.0, step=0.001
    )
    drift_limit: float = option(
        default=0.0, help="Drift at which the training stops; 0: never.", minimum=0.0, maximum=10.0, step=0.001
    )
    preview_every: int = option(
        default=0,
        help="Steps between two quick pictures of what the model still draws, shown while it trains; 0: never.",
        minimum=0,
        maximum=1000,
    )
    preserve_prompts: list[str] = option(
        default=list,
        help="Prompts or words to keep as they are, one per line; neighbours of the concept help most. Everyday captions are always included.",
    )
    use_everyday_captions: bool = option(default=True, help="Preserve the built-in everyday captions.")


def auto_learning_rate(context_dim: int, settings: GradientSettings) -> float:
    """Learning rate at which a training moves weights as fast as the published rate moves full weights.

    Parameters
    ----------
    context_dim
        Width of the conditioning. Below 768, the width of Stable Diffusion 1.x, a measured rate takes the place of the published one.

    Notes
    -----
    AdamW moves every entry by about its rate per step. An entry of up @ down then moves by rate * sqrt(rank) times the size of an entry
    of `down`, which is uniform with variance 1 / (3 in).
    """
    if settings.weights == "full delta":
        return PUBLISHED_RATE if context_dim >= 768 else SMALL_MODEL_RATE * math.sqrt(8 / (3 * context_dim))
    if context_dim < 768:
        return SMALL_MODEL_RATE * math.sqrt(8 / settings.rank)
    return PUBLISHED_RATE * math.sqrt(3 * context_dim / settings.rank)


def check_settings(settings: GradientSettings) -> None:
    """Raises ForgetError on settings that contradict each other."""
    if settings.attention_weight <= 0 and settings.visual_weight <= 0:
        raise ForgetError(
            "Expected a loss with a weight above 0, got 0 for both. Raise attention_weight or visual_weight."
        )
    if settings.first_level >= settings.last_level:
        raise ForgetError(
            f"Expected noise levels 0 <= first_level < last_level <= 1, got {settings.first_level} and {settings.last_level}."
        )
