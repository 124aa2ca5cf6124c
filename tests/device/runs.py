"""Runs of cases in processes of their own, one a configuration, and the CPU's results that they are compared with."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tools import comfy_host

from .compare import differences
from .configuration import CPU, Configuration

ROOT = comfy_host.REPOSITORY
OUT = ROOT / "out" / "device"
# A case takes seconds; a loaded machine may be slow, but one that hangs is stopped.
MOST_SECONDS = 3600
# Relative distance |x - y| / |x| from the CPU's results that a precision may have. float32 differs by the order of sums, as the device computes
# attention by matmul and softmax and the CPU in one operator. Half precision rounds weights and activations, to 11 or 8 bits.
TOLERANCES = {"fp32": 5e-3, "fp16": 0.03, "bf16": 0.1}
# Weights and vectors trained in half precision: Adam's first steps are the signs of gradients, so that rounding counts in full where a
# gradient is small. Their direction, the cosine with the CPU's in float32, must be kept.
LEAST_COSINE = {"fp32": math.inf, "fp16": 0.85, "bf16": 0.8}


def run(configuration: Configuration, cases: Iterable[str], fresh: bool = True) -> dict[str, dict[str, Any]]:
    """Results of cases by name (see run_cases.Result), from a process in this configuration."""
    name = hashlib.sha256(repr((configuration, list(cases), fresh)).encode()).hexdigest()[:12]
    file = OUT / "runs" / f"{name}.pt"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.device.run_cases", str(file)]
    command += ["--configuration", json.dumps(dataclasses.asdict(configuration)), "--cases", ",".join(cases)]
    command += ["--folder", str(OUT / "runs" / name), *(["--fresh"] if fresh else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    if not file.exists():
        raise RuntimeError(f"The run ended without results:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return torch.load(file, weights_only=False)


def reference(cases: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The CPU's results of cases, computed once for each state of the pack and its tests."""
    folder = OUT / f"cpu-{_sources()}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "computing", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [case for case in cases if not (folder / f"{case}.pt").exists()]
        if missing:
            for case, result in run(CPU, missing, fresh=False).items():
                torch.save(result, folder / f"{case}.pt")
    return {case: torch.load(folder / f"{case}.pt", weights_only=False) for case in cases}


def pictures_file() -> Path:
    """The file of the pictures that cases train on, which a process on a CPU draws when one is first asked for."""
    file = OUT / "runs" / "pictures.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(OUT / "runs" / "drawing", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            command = [
                sys.executable,
                "-m",
                "tests.device.run_cases",
                "--configuration",
                "cpu",
                "--pictures",
                str(file),
            ]
            command += ["--folder", str(OUT / "runs" / "cpu")]
            subprocess.run(command, cwd=ROOT, capture_output=True, timeout=MOST_SECONDS, check=True)
    return file


def _sources() -> str:
    """Hash of everything that a result depends on: pack, tests, host."""
    folders = ("nodes", "fmn_core", "mini_sd", "tests/device")
    files = [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]
    files += sorted((ROOT / "tests").glob("*.py"))
    digest = hashlib.sha256(str(comfy_host.root()).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def precision(configuration: Configuration, case: str) -> str:
    """The lowest precision in which a case holds weights or computes: its own, where its name has one, or the configuration's."""
    return next((half for half in ("bf16", "fp16") if half in case), configuration.weights)


def complaints(
    result: dict[str, Any], expected: dict[str, Any], precision: str = "fp32", tolerance: float | None = None
) -> list[str]:
    """What is wrong with a result: its error, what it left behind, and values unlike the CPU's.

    A value is unlike the CPU's where it is further away than `tolerance`, by default that of the precision, and, in half precision, has lost
    its direction too.
    """
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    if result["error"] or expected["error"]:
        return [result["error"] or f"on the CPU: {expected['error']}"]
    found = differences(expected["values"], result["values"])
    far = [
        f"{group} differs by {d.distance:.1e}, cosine {d.cosine:.4f}"
        for group, d in found.items()
        if not (d.distance <= tolerance or d.cosine > LEAST_COSINE[precision])
    ]
    return [*result["problems"], *far]


def results_folder() -> Path:
    OUT.mkdir(parents=True, exist_ok=True)
    return OUT
