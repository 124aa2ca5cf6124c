"""Compares two results of run_cases.py: python -m tests.device.compare CPU.pt FAKE.pt [--tolerance 1e-3]"""

from __future__ import annotations

import argparse
from typing import Any

import torch

# Words and drawn curves hold seconds and rounded figures.
_INEXACT = ("report", "plot", "device")


def differences(reference: dict[str, Any], values: dict[str, Any]) -> dict[str, float]:
    """Relative distance |x - y| / |x| of each result, the layers of a patch taken as one; infinite where they cannot be compared."""
    squares: dict[str, tuple[float, float]] = {}
    for key, x in reference.items():
        y = values.get(key)
        if key.rsplit(".", 1)[-1] in _INEXACT:
            continue
        if not isinstance(x, torch.Tensor):
            if x != y:
                squares[key] = (float("inf"), 1.0)
            continue
        if y is None or x.shape != y.shape:
            squares[key] = (float("inf"), 1.0)
            continue
        group = key.split(".", 1)[0] if "." in key and x.ndim == 2 else key
        distance, norm = squares.get(group, (0.0, 0.0))
        difference = float((x.double() - y.double()).square().sum())
        squares[group] = distance + difference, norm + float(x.double().square().sum())
    return {group: (distance / max(norm, 1e-30)) ** 0.5 for group, (distance, norm) in squares.items()}


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
        status = "same" if max(found.values(), default=0.0) <= options.tolerance else "DIFF"
        print(f"{status}  {name}: " + ", ".join(f"{group} {value:.1e}" for group, value in found.items()))


if __name__ == "__main__":
    main()
