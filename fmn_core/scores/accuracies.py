"""Accuracies of a classifier on generated pictures, their harmonic mean, and the interval of a mean."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import harmonic_mean

import numpy as np

from ..errors import ForgetError

RESAMPLES = 9999


def unlearning_accuracy(seen: Sequence[str], target: str) -> float:
    """UA: the share of pictures asked for the target that are NOT classified as it, 0..1; 1 is forgotten.

    Raises ForgetError without pictures. Source: UnlearnCanvas.
    """
    return 1 - retain_accuracy(seen, [target] * len(seen))


def retain_accuracy(seen: Sequence[str], wanted: Sequence[str]) -> float:
    """IRA or CRA: the share of pictures of other concepts that are classified as what was asked for, 0..1.

    Raises ForgetError without pictures, and when there are not as many labels as pictures. Source: UnlearnCanvas.
    """
    if not seen or len(seen) != len(wanted):
        raise ForgetError(
            f"Expected pictures and a label for each, got {len(seen)} pictures and {len(wanted)} labels. Give one label a picture."
        )
    return sum(a == b for a, b in zip(seen, wanted)) / len(seen)


def harmonic_mean_of_erasure(erased: float, specificity: float, generality: float) -> float:
    """H_o = 3 / (1 / (1 - Acc_e) + 1 / Acc_s + 1 / (1 - Acc_g)), 0..1; 0 where any of the three terms is 0.

    `erased`: Acc_e, the share in which the concept is still seen; `specificity`: Acc_s, the share of other concepts that is right;
    `generality`: Acc_g, the share in which it is still seen under its synonyms. Raises ForgetError on shares outside 0..1.
    Source: MACE.
    """
    shares = {"erased": erased, "specificity": specificity, "generality": generality}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ForgetError(f"Expected {name} as a share from 0 to 1, got {value}. Divide percents by 100.")
    return float(harmonic_mean([1 - erased, specificity, 1 - generality]))


def interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The bootstrap percentile interval (low, high) of the mean of values, one for each picture or prompt.

    A single value, or equal ones, give an interval of no width. Raises ForgetError without values, on values that are not
    numbers, and on a level outside 0..1.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0 or not np.isfinite(data).all():
        raise ForgetError(
            f"Expected one number or more, all finite, got {len(values)} values. Leave out what is missing."
        )
    if not 0 < level < 1:
        raise ForgetError(f"Expected a level between 0 and 1, got {level}. The usual one is 0.95.")
    generator = np.random.default_rng(seed)
    means = data[generator.integers(len(data), size=(RESAMPLES, len(data)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
