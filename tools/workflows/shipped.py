"""The list of the shipped workflows."""

from __future__ import annotations

from tools.workflows import by_attention, forgetting, on_your_model, patches
from tools.workflows.spec import Workflow


def shipped() -> list[Workflow]:
    """All shipped workflows, the starter first."""
    makers = (
        forgetting.starter,
        on_your_model.stable_diffusion,
        on_your_model.face,
        on_your_model.unsafe,
        forgetting.several,
        forgetting.inverted,
        forgetting.style,
        forgetting.correction,
        by_attention.mask,
        by_attention.visual,
        by_attention.zero_attention,
        patches.gate,
        patches.attention_of_a_patch,
        patches.score,
    )
    return [make() for make in makers]
