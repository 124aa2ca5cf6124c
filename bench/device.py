"""The methods on a pretended accelerator: python -m bench.device [--configurations NAMES] [--json FILE]

For each configuration and method: whether it ran, the distance of its result from the CPU's, and its peak of device
memory relative to that of one inference in the same configuration. Every run adds to bench/results/device.json and
writes the page bench/results/device.md from it. DynamicVRAM needs a newer host in FMN_COMFYUI.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.results_page import RESULTS, machine, markdown_table
from tests.device import runs
from tests.device.cases import CASES
from tests.device.compare import differences
from tests.device.configuration import CONFIGURATIONS, DYNAMIC, Configuration

BASELINE = "peak_inference"
METHODS = [name for name in CASES if name.startswith("peak_")]
JSON = RESULTS / "device.json"


def rows_of(name: str, configuration: Configuration) -> list[dict[str, Any]]:
    """One row a method, with its difference from the CPU's result and its peak of device memory in bytes."""
    expected, results = runs.reference(METHODS), runs.run(configuration, METHODS)
    inference, rows = results[BASELINE]["peak"], []
    for method in METHODS:
        result = results[method]
        apart = differences(expected[method]["values"], result["values"]) if not result["error"] else {}
        rows.append(
            {
                "configuration": name,
                "method": method.removeprefix("peak_").replace("_", " "),
                "error": result["error"].strip().rsplit("\n", 1)[-1],
                "difference": max((d.distance for d in apart.values()), default=0.0),
                "cosine": min((d.cosine for d in apart.values()), default=1.0),
                "peak": result["peak"],
                "ratio": result["peak"] / max(inference, 1),
                "problems": result["problems"],
            }
        )
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """Text of the results page, with a table of peaks and one of differences, methods by configurations."""
    configurations = list(dict.fromkeys(row["configuration"] for row in rows))
    cells = {(row["method"], row["configuration"]): row for row in rows}

    def table(cell) -> str:
        lines = [
            {"method": method} | {c: cell(cells[method, c]) if (method, c) in cells else "" for c in configurations}
            for method in dict.fromkeys(row["method"] for row in rows)
        ]
        return markdown_table(lines, ("method", *configurations))

    def failure(row: dict[str, Any]) -> str:
        return "failed" if row["error"] else ("left changes" if row["problems"] else "")

    memory = table(lambda row: failure(row) or f"{row['peak'] / 1e6:.1f} MB, {row['ratio']:.2f}x")
    equal = table(lambda row: failure(row) or f"{row['difference']:.1e}{_direction(row)}")
    return f"""# The methods on a pretended accelerator

Made by `python -m bench.device`. The miniature, on the device of tests/device, whose memory is counted to the byte. {machine()}

## Peak of device memory, and beside one inference in the same configuration

{memory}

One inference is one picture of 128x128 with guidance, without the VAE. The miniature's weights are small beside its activations and the text encoder's table is most of CLIP, so that ratios of a full-size model differ.

## Distance |x - y| / |x| from the CPU's result in float32

{equal}

Three steps of Adam amplify what half precision does to small gradients, because its first steps are their signs; the gradients themselves (`gradients` of tests/device)
are within .01 of the CPU's in fp16 and .06 in bf16. The columns of DynamicVRAM are from a ComfyUI that has it.
"""


def _direction(row: dict[str, Any]) -> str:
    """The cosine with the CPU's result, where that is more than rounding away."""
    return f" (cosine {row['cosine']:.3f})" if row["difference"] > 1e-2 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--configurations", nargs="+", default=list(CONFIGURATIONS), help="names, by default those of every host"
    )
    parser.add_argument("--json", type=Path, default=JSON)
    options = parser.parse_args()
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for name in options.configurations:
        rows = [row for row in rows if row["configuration"] != name]
        rows += rows_of(name, {**CONFIGURATIONS, **DYNAMIC}[name])
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page(rows))


if __name__ == "__main__":
    main()
