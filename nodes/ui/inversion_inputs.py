"""Node inputs of a textual inversion."""

from __future__ import annotations

from typing import Any

from ...fmn_core.training.inversion import InversionSettings
from .option_inputs import fine_input, option_input

DEFAULT_DECAY = InversionSettings().weight_decay


def inversion_inputs() -> list[Any]:
    """Inputs for the number of vectors, the steps, the warmup, the learning rate and the batch."""
    return [
        option_input(InversionSettings, "tokens"),
        option_input(InversionSettings, "steps", "inversion_steps"),
        option_input(InversionSettings, "warmup"),
        fine_input(InversionSettings, "learning_rate", "inversion_rate"),
        option_input(InversionSettings, "batch"),
    ]


def inversion_settings(
    *,
    tokens: int,
    inversion_steps: int,
    warmup: int,
    inversion_rate: float,
    batch: int,
    seed: int,
    start: Any,
    words: str = "",
    weight_decay: float = DEFAULT_DECAY,
) -> InversionSettings:
    """Inversion settings from the values of `inversion_inputs` and of the node's other widgets."""
    return InversionSettings(
        tokens=tokens,
        start=start,
        words=words,
        steps=inversion_steps,
        warmup=warmup,
        learning_rate=inversion_rate,
        weight_decay=weight_decay,
        batch=batch,
        seed=seed,
    )
