"""The host's V3 node API, and the socket types and menu groups that the pack adds to it."""

import dataclasses
from typing import Any

try:
    from comfy_api.v0_0_2 import io, ui
except ImportError:
    from comfy_api.latest import io, ui


class Menu:
    """Groups of nodes in the host's menu."""

    MAIN = "Forget-Me-Not"
    CONCEPTS = f"{MAIN}/concepts"
    PATCHES = f"{MAIN}/patches"
    TRAINING = f"{MAIN}/training"
    MASKS = f"{MAIN}/masks"
    WHILE_SAMPLING = f"{MAIN}/while sampling"
    MEASURE = f"{MAIN}/measure"


ForgetConceptType = io.Custom("FORGET_CONCEPT")
ForgetPatchType = io.Custom("FORGET_PATCH")
ForgetPairsType = io.Custom("FORGET_PAIRS")
ForgetScoresType = io.Custom("FORGET_SCORES")
ImageTextType = io.Custom("FMN_IMAGE_TEXT")
TrainingOptionsType = io.Custom("FORGET_OPTIONS")


def schema(**fields: Any) -> Any:
    """A node's schema, without fields that older hosts do not know, such as `search_aliases`."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


__all__ = [
    "ForgetConceptType",
    "ForgetPairsType",
    "ForgetPatchType",
    "ForgetScoresType",
    "ImageTextType",
    "Menu",
    "TrainingOptionsType",
    "io",
    "schema",
    "ui",
]
