"""Device tests, and seconds and memory at full size, on a CUDA GPU: python -m bench.gpu [--device cuda|fake|cpu] [--shapes a,b] [--cases a,b] [--minutes 9]

Runs the cases of tests/device in every configuration of weights and memory and compares them with the CPU's results;
runs closed form, re-steering, visual denoising and inversion on random SD 1.5, 2.1 and XL in fp16, and one inference
for comparison. Each row is written to gpu.json as soon as it is measured, so that an interrupted run goes on where it
ended. Writes bench/results/gpu.md and gpu.json; for another device than cuda into out/gpu-DEVICE. Exits with 2 where
there is no CUDA device.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.copies import CASES
from bench.results_page import RESULTS, machine, markdown_table
from fmn_core.safetensors_file import write_whole
from tools.comfy_host import REPOSITORY, activate

CONFIGURATIONS = ("all on the device", "fp16 weights", "bf16 weights", "manual cast", "partial load", "no VRAM")
FULL_SIZE = ("SD 1.5", "SD 2.1", "SDXL")
MINUTES, TIDY_UP = 9.0, 15
# Seconds that a part needs at least: a host starts in a quarter of a minute, a random SDXL is written in one.
MINIMUM_SECONDS = {"cases": 40, "table": 60, "SDXL": 120}
NO_GPU = (
    "Expected a CUDA device, found none. Run this on a machine with an NVIDIA GPU and a CUDA build of torch, "
    "or test the command itself with --device cpu --shapes miniature."
)
TABLE_COLUMNS = ("model", "method", "seconds", "peak_mb", "times_inference", "note")


class ResultFile:
    """Measured rows in a JSON file, which is written after each row."""

    def __init__(self, folder: Path):
        self.file = folder / "gpu.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.content = json.loads(self.file.read_text()) if self.file.exists() else {"rows": []}

    def has(self, **key: str) -> bool:
        """Whether a row has these values."""
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.content["rows"])

    def add(self, **row: Any) -> None:
        """Adds a row, prints it and writes the file."""
        self.content["rows"].append(row)
        print(json.dumps(row), flush=True)
        self.save()

    def save(self) -> None:
        write_whole((json.dumps(self.content, indent=1) + "\n").encode(), self.file)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Rows of a kind: case or table."""
        return [row for row in self.content["rows"] if row["kind"] == kind]


def device_text(device: str) -> str:
    """Name of the device, with the versions that results depend on."""
    if device != "cuda":
        return f"{device} ({machine()})"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}, Python {sys.version.split()[0]}"


# --- the cases of tests/device ----------------------------------------------------------------------------------------


def run_cases(device: str, name: str, cases: list[str], rows: ResultFile) -> None:
    """Runs the cases of a configuration that have no row yet, and compares them with the CPU's results."""
    modules = {n: importlib.import_module(f"tests.device.{n}") for n in ("configuration", "runs", "run_cases", "world")}
    missing = [case for case in cases if not rows.has(kind="case", configuration=name, case=case)]
    configuration = dataclasses.replace(modules["configuration"].CONFIGURATIONS[name], device=device)
    if not missing:
        return
    expected = modules["runs"].reference(missing)
    activate(cpu=device != "cuda")
    registered = importlib.import_module("tests.device.cases").CASES
    with torch.inference_mode():
        # In the folder of the CPU's runs, which drew the pictures that all runs train on.
        folder = modules["runs"].OUT / "runs" / f"gpu-{name.replace(' ', '-')}"
        world = modules["world"].World(configuration, folder)
        if device == "cuda":
            _limit(world.management, configuration)
        world.pictures()
        originals = world.weights()
        for case in missing:
            world.forget_cache()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            result = modules["run_cases"].run_case(world, registered[case], originals)
            computed = modules["runs"].precision(configuration, case)
            complaints = modules["runs"].complaints(dataclasses.asdict(result), expected[case], computed)
            peak = torch.cuda.max_memory_allocated() if device == "cuda" else result.peak
            problems = "; ".join(text.strip().splitlines()[-1] for text in complaints)
            rows.add(
                kind="case", configuration=name, case=case, problems=problems, seconds=round(result.seconds, 2), peak_mb=round(peak / 1e6, 1)
            )  # fmt: skip


def _limit(management: Any, configuration: Any) -> None:
    """Limits a real card to the configuration's memory, through the amount that the host keeps free."""
    management.vram_state = management.set_vram_to = management.VRAMState[configuration.state]
    if configuration.vram < 1e9:
        management.EXTRA_RESERVED_VRAM += torch.cuda.mem_get_info()[0] - configuration.capacity()


# --- tables -----------------------------------------------------------------------------------------------------------


def table_methods() -> dict[str, Any]:
    """Methods to measure by name, beginning with inference, which the others' memory is compared with."""
    from bench.speed_methods import by_gradient, closed_form, inference, inversion, visual_denoising

    return {
        "one sampling step with guidance": inference,
        "closed form": closed_form(),
        "closed form, float32 on the device": closed_form(precision="float32 on the model's device"),
        "attention re-steering": by_gradient(steps=4),
        "visual denoising": visual_denoising(steps=4),
        "concept inversion": inversion(steps=4),
    }


def run_table(device: str, model: str, rows: ResultFile) -> None:
    """Measures the methods that have no row yet on a model with random weights."""
    activate(cpu=device != "cuda")
    from bench.speed_models import model_of

    with model_of(model, "fp16" if device == "cuda" else "auto") as subject:
        for name, method in table_methods().items():
            if rows.has(kind="table", model=model, method=name):
                continue
            try:
                with method(subject, ["zebra"]) as run:
                    seconds, peak, note = round(run.cost.seconds, 2), round(run.cost.peak_mb), run.note
                    run.model = None
            except torch.OutOfMemoryError as error:
                seconds, peak, note = None, None, f"out of memory: {str(error).splitlines()[0]}"
            rows.add(kind="table", model=model, method=name, seconds=seconds, peak_mb=peak, note=note)


# --- one run ----------------------------------------------------------------------------------------------------------


def parts(shapes: list[str]) -> list[tuple[str, str]]:
    """Parts of a run, (cases, configuration) or (table, model), the most informative first."""
    first, *others = CONFIGURATIONS
    return [("cases", first), *(("table", model) for model in shapes), *(("cases", name) for name in others)]


def run_part(arguments: list[str], seconds: float) -> bool:
    """Runs a part in a new process, killed at the time limit, and returns whether it finished."""
    process = subprocess.Popen([sys.executable, "-m", "bench.gpu", *arguments], cwd=REPOSITORY, start_new_session=True)
    try:
        return process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def page(rows: ResultFile, device: str, command: str, skipped: list[str]) -> str:
    """Text of the results page."""
    table = [dict(row) for row in rows.of_kind("table")]
    inference = {row["model"]: row["peak_mb"] for row in table if row["method"].startswith("one sampling step")}
    for row in table:
        base = inference.get(row["model"])
        row["times_inference"] = round(row["peak_mb"] / base, 2) if base and row["peak_mb"] else ""
    cases = rows.of_kind("case")
    lines = ["| case | " + " | ".join(CONFIGURATIONS) + " |", "|---|" + "---|" * len(CONFIGURATIONS)]
    for case in dict.fromkeys(row["case"] for row in cases):
        cells = {r["configuration"]: r["problems"] or f"{r['seconds']:.1f} s" for r in cases if r["case"] == case}
        lines.append(f"| {case} | " + " | ".join(cells.get(name, "") for name in CONFIGURATIONS) + " |")
    failed = sum(bool(row["problems"]) for row in cases)
    not_run = "\n\nNot run: " + "; ".join(skipped) + "." if skipped else ""
    return f"""# On a GPU

Made by `{command}` on {device}, {time.strftime("%Y-%m-%d")}.{not_run}

## Seconds and memory at full size

Random weights in fp16: times and memory only. peak_mb: device memory, the model included; times_inference: beside one sampling step with guidance.

{markdown_table(table, TABLE_COLUMNS)}

## Cases of tests/device

{len(cases) - failed} of {len(cases)} ran and gave the CPU's results within their precision's tolerance; seconds where they did, else what was wrong.

{chr(10).join(lines)}
"""


def run_all(args: argparse.Namespace, folder: Path) -> int:
    """Runs every part for which time is left, writes the page, and returns the exit status."""
    deadline, skipped = time.monotonic() + 60 * args.minutes - TIDY_UP, []
    for kind, name in parts(args.shapes.split(",")):
        seconds_left = deadline - time.monotonic()
        if seconds_left < MINIMUM_SECONDS.get(name, MINIMUM_SECONDS[kind]):
            skipped.append(f"{kind} {name} (no time left)")
            continue
        arguments = ["--part", kind, name, "--device", args.device, "--cases", args.cases, "--folder", str(folder)]
        if not run_part(arguments, seconds_left):
            skipped.append(f"{kind} {name} (ended before its end: see the rows)")
    rows = ResultFile(folder)
    command = "python -m bench.gpu" + ("" if args.device == "cuda" else f" --device {args.device}")
    rows.content |= {"device": device_text(args.device), "command": command, "skipped": skipped}
    rows.save()
    (folder / "gpu.md").write_text(page(rows, rows.content["device"], command, skipped))
    print(f"{len(rows.content['rows'])} rows in {folder}; not run: {', '.join(skipped) or 'nothing'}")
    return 0


def main() -> int:
    """Runs everything, or one part; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "fake", "cpu"), default="cuda")
    parser.add_argument("--shapes", default=",".join(FULL_SIZE), help=f"of miniature, {', '.join(FULL_SIZE)}")
    parser.add_argument("--cases", default=",".join(CASES), help="cases of tests/device")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--folder", type=Path, help="where the rows are kept")
    parser.add_argument(
        "--part", nargs=2, metavar=("KIND", "NAME"), help="one part only, as the command itself runs it"
    )
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    folder = args.folder or (RESULTS if args.device == "cuda" else REPOSITORY / "out" / f"gpu-{args.device}")
    if not args.part:
        return run_all(args, folder)
    kind, name = args.part
    if kind == "cases":
        run_cases(args.device, name, args.cases.split(","), ResultFile(folder))
    else:
        run_table(args.device, name, ResultFile(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
