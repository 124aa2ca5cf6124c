"""Distances between two batches of pictures: FID, KID and CMMD on any features, and the drift between pictures of the same seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import ForgetError

MEASURES = ("FID", "KID", "CMMD", "drift")
PACKAGE = "torchmetrics>=1.9,<2"
CMMD_BANDWIDTH, CMMD_SCALE = 10.0, 1000.0
KID_SUBSET, KID_SUBSETS = 1000, 100

Features = Callable[[torch.Tensor], torch.Tensor]


def distance(measure: str, features: Features | None, first: torch.Tensor, second: torch.Tensor) -> float:
    """Computes a distance between two batches of pictures.

    Parameters
    ----------
    measure
        One of MEASURES.
    features
        Function from pictures to features (B, D), such as ImageTextModel.images. Drift needs none.
    first, second
        Pictures (B, H, W, 3) in 0..1.

    Returns
    -------
    The distance; 0 for the same pictures, around which KID scatters.

    Raises
    ------
    ForgetError
        On an unknown measure, too few pictures, no features, and when the package torchmetrics is missing.

    Notes
    -----
    With other features than Inception's, FID and KID are not comparable with published figures. FID of few pictures is too large.
    """
    if measure not in MEASURES:
        raise ForgetError(f"Expected a measure of {', '.join(MEASURES)}, got {measure!r}.")
    if measure == "drift":
        return drift(first, second)
    if features is None:
        raise ForgetError(f"Expected an image-text model for {measure}, got none. Connect Load Image-Text Model.")
    if min(len(first), len(second)) < 2:
        raise ForgetError(
            f"Expected two pictures or more on each side for {measure}, got {len(first)} and {len(second)}. Sample more."
        )
    function = {"FID": frechet, "KID": kernel, "CMMD": cmmd}[measure]
    return function(features(first).double(), features(second).double())


def drift(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean squared difference of pictures of the same prompts and seeds; raises ForgetError when their shapes differ."""
    if first.shape != second.shape or len(first) == 0:
        raise ForgetError(
            f"Expected as many pictures of one size on both sides, got {list(first.shape)} and {list(second.shape)}. "
            "Sample the same prompts, seeds and size."
        )
    return float(((first.double() - second.double()) ** 2).mean())


def frechet(first: torch.Tensor, second: torch.Tensor) -> float:
    """Frechet distance (FID) between the Gaussians fitted to features (N, D) and (M, D). Source: Heusel et al."""
    metric = _image_metrics().fid.FrechetInceptionDistance(feature=_IdentityFeatures(first.shape[1]))
    return float(_compute(metric, first, second))


def kernel(first: torch.Tensor, second: torch.Tensor) -> float:
    """Kernel distance (KID): unbiased squared MMD of features with the kernel (x y / D + 1)^3. Source: Binkowski et al."""
    size = min(len(first), len(second), KID_SUBSET)
    subsets = 1 if len(first) == len(second) == size else KID_SUBSETS
    metric = _image_metrics().kid.KernelInceptionDistance(
        feature=_IdentityFeatures(first.shape[1]), subsets=subsets, subset_size=size
    )
    # The metric draws its subsets from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return float(_compute(metric, first, second)[0])


def cmmd(first: torch.Tensor, second: torch.Tensor) -> float:
    """CMMD: squared MMD, times 1000, of features of length 1 with a Gaussian kernel of bandwidth 10.

    Notes
    -----
    Source: Jayasumana et al., Rethinking FID, in the biased form (with the diagonal) of its published figures.
    """

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(torch.cdist(a, b) ** 2) / (2 * CMMD_BANDWIDTH**2)).mean()

    return float(
        CMMD_SCALE * (mean_kernel(first, first) + mean_kernel(second, second) - 2 * mean_kernel(first, second))
    )


class _IdentityFeatures(torch.nn.Identity):
    """Feature extractor of the metrics that returns its input, since they are given features."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width


def _compute(metric: Any, first: torch.Tensor, second: torch.Tensor) -> Any:
    metric.set_dtype(torch.float64)
    metric.update(first, real=True)
    metric.update(second, real=False)
    return metric.compute()


def _image_metrics() -> Any:
    """The module torchmetrics.image; raises ForgetError when the package is not installed."""
    try:
        import torchmetrics.image.fid
        import torchmetrics.image.kid
    except ImportError as error:
        raise ForgetError(
            f'Expected the package torchmetrics for FID and KID, which is not installed. Run: pip install "{PACKAGE}", or choose CMMD.'
        ) from error
    return torchmetrics.image
