"""Accuracies of a classifier on generated pictures, their harmonic mean, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import harmonic_mean

import numpy as np

from ..errors import ForgetError

RESAMPLES = 9999


def unlearning_accuracy(seen: Sequence[str], target: str) -> float:
    """Unlearning accuracy UA: share of the target's pictures that are not classified as the target, 0..1; 1 is forgotten.

    Parameters
    ----------
    seen
        Label of each picture, from the classifier.

    Raises
    ------
    ForgetError
        Without pictures.

    Notes
    -----
    Source: UnlearnCanvas.
    """
    return 1 - retain_accuracy(seen, [target] * len(seen))


def retain_accuracy(seen: Sequence[str], prompted: Sequence[str]) -> float:
    """Retain accuracy IRA or CRA: share of other concepts' pictures that are classified as the concept in their prompt, 0..1.

    Parameters
    ----------
    seen
        Label of each picture, from the classifier.
    prompted
        Label of each picture's prompt.

    Raises
    ------
    ForgetError
        Without pictures, and when there are not as many labels as pictures.

    Notes
    -----
    Source: UnlearnCanvas.
    """
    if not seen or len(seen) != len(prompted):
        raise ForgetError(
            f"Expected pictures and a label for each, got {len(seen)} pictures and {len(prompted)} labels. Give one label a picture."
        )
    return sum(a == b for a, b in zip(seen, prompted)) / len(seen)


def harmonic_mean_of_erasure(erased: float, specificity: float, generality: float) -> float:
    """Harmonic mean H_o = 3 / (1 / (1 - Acc_e) + 1 / Acc_s + 1 / (1 - Acc_g)) of forgetting, keeping and generality, 0..1.

    Parameters
    ----------
    erased
        Acc_e, the share of its pictures in which the concept is still seen.
    specificity
        Acc_s, the share of other concepts' pictures that are right.
    generality
        Acc_g, the share of its synonyms' pictures in which the concept is still seen.

    Returns
    -------
    H_o; 0 where any of the three terms is 0.

    Raises
    ------
    ForgetError
        On shares outside 0..1.

    Notes
    -----
    Source: MACE.
    """
    shares = {"erased": erased, "specificity": specificity, "generality": generality}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ForgetError(f"Expected {name} as a share from 0 to 1, got {value}. Divide percents by 100.")
    return float(harmonic_mean([1 - erased, specificity, 1 - generality]))


def interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap percentile interval (low, high) of a mean.

    Parameters
    ----------
    values
        One number for each picture or prompt. A single one, or equal ones, give an interval of no width.
    level
        Confidence level, between 0 and 1.

    Raises
    ------
    ForgetError
        Without values, on values that are not numbers, and on a level outside 0..1.
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
