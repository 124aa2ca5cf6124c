"""The list of the shipped workflows, and their notes in both languages."""

from __future__ import annotations

import json
from pathlib import Path

from tools.workflows import by_attention, forgetting, on_your_model, patches
from tools.workflows.spec import Workflow

CHINESE_NOTES = Path(__file__).parent / "notes_zh.json"


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
        forgetting.scene,
    )
    return [make() for make in makers]


def notes(workflow: Workflow) -> dict[str, str]:
    """The note of a workflow in English and in Chinese, by the properties of the note's node that hold it."""
    chinese = json.loads(CHINESE_NOTES.read_text(encoding="utf-8"))
    return {"fmn_en": workflow.note, "fmn_zh": chinese[workflow.name]}
