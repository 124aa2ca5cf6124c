"""Plain pictures, patches and scores for reports, and what a figure shows of them."""

import numpy as np
import torch

from fmn_core.patch.patch import ForgetPatch

RED, BLUE, GREEN, VIOLET = (255, 0, 0), (0, 0, 255), (0, 128, 0), (128, 0, 128)
MARGIN, SIDE = 16, 256
SCORES = [
    {"score": "unlearning accuracy", "value": 0.9375, "low": 0.84, "high": 1.0, "note": "32 pictures"},
    {"score": "M-Score", "value": float("nan"), "low": None, "high": None, "note": ""},
]
CURVES = {
    "losses": [0.9 - 0.02 * k for k in range(35)],
    "mass": [0.1 / (k + 1) for k in range(35)],
    "drift": [[k, 0.001 * k] for k in (10, 20, 30, 35)],
}
LAYERS = {"layers": {"mid.0": {"missed": 0.1, "drift": 0.01}}, "rank": 4}
LONG = [{"phrases": [f"an unusually long name of a concept, number {n}, " * 4]} for n in range(12)]


def plain(colour, count=1, height=64, width=64):
    return (torch.tensor(colour) / 255).expand(count, height, width, 3).clone()


def patch(figures=LAYERS, concepts=({"phrases": ["zebra"]},), **settings):
    return ForgetPatch({}, list(concepts), {"architecture": "stable-diffusion-v1"}, settings, figures)


def pixels(figure):
    return (figure[0].numpy() * 255).round().astype(np.uint8)


def where(figure, colour):
    """Rows and columns of the pixels of exactly one colour."""
    return np.nonzero((pixels(figure) == np.array(colour)).all(-1))


def no_such_constant(name):
    raise AssertionError(f"{name} is not JSON")
