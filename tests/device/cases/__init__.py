"""Every node and every method of training, as functions of a world."""

from . import attention, closed_form, gradient, gradients, memory, patches, peaks, transformers, words
from .registry import CASES

__all__ = [
    "CASES",
    "attention",
    "closed_form",
    "gradient",
    "gradients",
    "memory",
    "patches",
    "peaks",
    "transformers",
    "words",
]
