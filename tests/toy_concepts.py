"""Concepts that the toy forgets, and latents of the pictures that it trains on."""

import torch

from fmn_core.concepts.concept import Concept
from fmn_core.training.references import References

TEMPLATES = ["a photo of a {} in the park", "a {} on a table", "a drawing of a {} , detailed", "{}"]
ZEBRA = Concept(["zebra"], "object", ["a photo of a {}", "a {} in the park"])
LATENTS = [References(torch.zeros(1, 4, 4, 4))]
