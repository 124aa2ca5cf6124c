"""Compares two results of run_cases.py: python -m tests.device.compare CPU.pt FAKE.pt [--tolerance 1e-3]"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import torch

# Words and drawn curves hold seconds and rounded figures.
_INEXACT = ("report", "plot", "device")


@dataclass(frozen=True)
class Difference:
    """How far a result y is from its reference x: `distance` |x - y| / |x|, infinite where they cannot be compared, and the `cosine` between them."""

    distance: float
    cosine: float


def differences(reference: dict[str, Any], values: dict[str, Any]) -> dict[str, Difference]:
    """The difference of each result from its reference, the layers of a patch taken as one vector."""
    sums: dict[str, torch.Tensor] = {}
    for key, x in reference.items():
        y = values.get(key)
        if key.rsplit(".", 1)[-1] in _INEXACT:
            continue
        if not isinstance(x, torch.Tensor):
            if x != y:
                sums[key] = torch.full((4,), float("inf"), dtype=torch.float64)
            continue
        if y is None or x.shape != y.shape:
            sums[key] = torch.full((4,), float("inf"), dtype=torch.float64)
            continue
        group = key.split(".", 1)[0] if "." in key and x.ndim == 2 else key
        x, y = x.double(), y.double()
        parts = torch.stack([(x - y).square().sum(), x.square().sum(), y.square().sum(), (x * y).sum()])
        sums[group] = sums.get(group, 0) + parts
    return {group: _difference(*parts.tolist()) for group, parts in sums.items()}


def _difference(distance: float, x: float, y: float, product: float) -> Difference:
    if not math.isfinite(x):
        return Difference(math.inf, 0.0)
    return Difference(math.sqrt(distance / max(x, 1e-30)), product / max(math.sqrt(x * y), 1e-30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference")
    parser.add_argument("values")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    options = parser.parse_args()
    reference, values = (torch.load(path, weights_only=False) for path in (options.reference, options.values))
    for name in (n for n in reference if n in values):
        if reference[name]["error"] or values[name]["error"]:
            print(f"error {name}")
            continue
        found = differences(reference[name]["values"], values[name]["values"])
        status = "same" if all(d.distance <= options.tolerance for d in found.values()) else "DIFF"
        print(
            f"{status}  {name}: " + ", ".join(f"{k} {d.distance:.1e} (cosine {d.cosine:.4f})" for k, d in found.items())
        )


if __name__ == "__main__":
    main()
