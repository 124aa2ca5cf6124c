"""The host's V3 node API, and the socket types that the pack adds to it."""

try:
    from comfy_api.v0_0_2 import io, ui
except ImportError:
    from comfy_api.latest import io, ui

CATEGORY = "Forget-Me-Not"
ForgetConceptType = io.Custom("FORGET_CONCEPT")
ForgetPatchType = io.Custom("FORGET_PATCH")
ForgetPairsType = io.Custom("FORGET_PAIRS")
ForgetScoresType = io.Custom("FORGET_SCORES")
ImageTextType = io.Custom("FMN_IMAGE_TEXT")
TrainingOptionsType = io.Custom("FORGET_OPTIONS")

__all__ = [
    "CATEGORY",
    "ForgetConceptType",
    "ForgetPairsType",
    "ForgetPatchType",
    "ForgetScoresType",
    "ImageTextType",
    "TrainingOptionsType",
    "io",
    "ui",
]
