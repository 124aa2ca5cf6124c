"""What can be chosen for a training by gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ..errors import ForgetError
from .losses import LOSS_FORMS, VISUAL_WEIGHTINGS
from .trainable import WEIGHT_FORMS

PROJECTIONS = {
    "values": ("to_v",),
    "keys": ("to_k",),
    "keys and values": ("to_k", "to_v"),
    "attn2": ("to_q", "to_k", "to_v", "to_out.0"),
}
TRAIN_CHOICES = (*PROJECTIONS, "whole UNet")
OPTIMISERS = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "RAdam": torch.optim.RAdam,
    "Adafactor": torch.optim.Adafactor,
    "SGD": torch.optim.SGD,
}
SCHEDULES = ("constant", "linear", "cosine")
AUTO_RATE = 0.0
PUBLISHED_RATE = 2e-6  # of full weights, for Stable Diffusion
SMALL_MODEL_RATE = 1e-2  # of factors of rank 8, measured on models with a conditioning narrower than SD's
# On the miniature, fifty times as much forgets nothing, and none at all loses the other concepts.
PRESERVATION_SCALE = 0.2


@dataclass
class GradientSettings:
    """What can be chosen; the defaults are Algorithm 1 on LoRA factors.

    `attention_weight`, `visual_weight`: w_attn and w_vis of L = w_attn L_attn + w_vis L_vis, each loss divided by what it begins
    with when both are used: the attention loss by its first value, the visual loss by visual_scale. `visual_weighting`
    and `first_level`..`last_level` (shares of the training timesteps, 0 = clean): which noise levels count. `learning_rate`: 0 = auto (see auto_learning_rate). `preservation`: weight of the squared
    relative movement of preserve prompts' keys and values, in units of PRESERVATION_SCALE times what the loss begins with.
    `target_mass`: stop when the mean attention mass on the concept falls below this share of where it started, 0 = never.
    `drift_every`, `drift_warning`, `drift_limit`: steps between two looks at the drift monitor, and at what drift to warn
    and to stop; 0 = never. `preview_every`: steps between two pictures of what is left, for `progress`; 0 = never.
    """

    train: str = "keys and values"
    weights: str = "LoRA"
    loss: str = "paper"
    attention_weight: float = 1.0
    visual_weight: float = 0.0
    visual_weighting: str = "min-SNR"
    first_level: float = 0.0
    last_level: float = 1.0
    steps: int = 35
    accumulation: int = 1
    learning_rate: float = AUTO_RATE
    optimiser: str = "AdamW"
    schedule: str = "constant"
    weight_decay: float = 0.01
    clip: float = 1.0
    rank: int = 8
    seed: int = 0
    checkpointing: bool = False
    preservation: float = 1.0
    target_mass: float = 0.0
    drift_every: int = 10
    drift_warning: float = 0.05
    drift_limit: float = 0.0
    preview_every: int = 0
    preserve_prompts: list[str] = field(default_factory=list)
    use_everyday_captions: bool = True


def auto_learning_rate(context_dim: int, settings: GradientSettings) -> float:
    """The rate that moves weights as fast as the published rate moves full weights.

    AdamW moves every entry by about its rate per step. An entry of up @ down then moves by rate * sqrt(rank) times the
    size of an entry of `down`, which is uniform with variance 1 / (3 in). Narrow models get a measured pace instead.
    """
    if settings.weights == "full delta":
        return PUBLISHED_RATE if context_dim >= 768 else SMALL_MODEL_RATE * math.sqrt(8 / (3 * context_dim))
    if context_dim < 768:
        return SMALL_MODEL_RATE * math.sqrt(8 / settings.rank)
    return PUBLISHED_RATE * math.sqrt(3 * context_dim / settings.rank)


def check_settings(settings: GradientSettings) -> None:
    """Raises ForgetError on the first setting that cannot be used."""
    choices = {
        "train": TRAIN_CHOICES,
        "weights": WEIGHT_FORMS,
        "loss": LOSS_FORMS,
        "visual_weighting": VISUAL_WEIGHTINGS,
        "optimiser": tuple(OPTIMISERS),
        "schedule": SCHEDULES,
    }
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise ForgetError(f"Expected {name} to be one of {', '.join(allowed)}, got {getattr(settings, name)!r}.")
    least = {
        "steps": 1,
        "rank": 1,
        "accumulation": 1,
        "learning_rate": 0.0,
        "clip": 1e-12,
        "drift_every": 0,
        "preview_every": 0,
    }
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise ForgetError(f"Expected {name} of at least {smallest}, got {getattr(settings, name)}. Raise it.")
    if settings.attention_weight <= 0 and settings.visual_weight <= 0:
        raise ForgetError(
            "Expected a loss with a weight above 0, got 0 for both. Raise attention_weight or visual_weight."
        )
    if not 0 <= settings.first_level < settings.last_level <= 1:
        raise ForgetError(
            f"Expected noise levels 0 <= first_level < last_level <= 1, got {settings.first_level} and {settings.last_level}."
        )
