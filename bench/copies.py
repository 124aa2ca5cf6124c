"""Copies and waits of the nodes on the pretended device: python -m bench.copies [--cases a,b] [--json FILE] [--before FILE] [--write]

Runs cases of tests/device, in one process, and counts what crosses between the CPU and the device and what waits for the device, by function of
the pack. `--json`: keeps the counts; `--before`: compares with such a file, made by an older version. `--write`: bench/results/device_copies.md.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.results_page import RESULTS, machine
from tools.comfy_host import REPOSITORY

CASES = (
    "sampling", "closed_form_float64", "closed_form_float32", "resteering_images_mask",
    "resteering_fp16", "resteering_own_images", "visual", "both_checkpointing_full", "invert", "attack_tokens", "zero_attention_mask", "gate", "scores",
)  # fmt: skip
KINDS = {"H2D": "copies to the device", "D2H": "copies from it", "sync": "waits"}
SHOWN = 45
# Functions under which the host loads models, or acts for this bench alone.
LEFT_OUT = ("(host)", "bench/copies.py measure", "nodes/host/models.py load")


@functools.cache
def _functions(path: str) -> list[tuple[int, int, str]]:
    """First line, last line and name of every function in a file of the pack."""
    tree = ast.parse((REPOSITORY / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(n.lineno, n.end_lineno or n.lineno, n.name) for n in ast.walk(tree) if isinstance(n, kinds)]


def function_of(line: str) -> str:
    """The innermost function at a line such as "nodes/x.py:12", by which versions can be compared. Other text is returned as it is."""
    path, _, number = line.rpartition(":")
    if not number.isdigit():
        return line
    around = [(end - first, name) for first, end, name in _functions(path) if first <= int(number) <= end]
    return f"{path} {min(around)[1]}" if around else path


def measure(names: list[str], folder: Path) -> list[dict[str, Any]]:
    """Rows: case, peak (bytes of device memory), counts: [kind, function, count, bytes] of the case's second run."""
    import torch

    # No part of the pack: the tests' pretended device.
    part = {
        name: importlib.import_module(f"tests.device.{name}") for name in ("configuration", "profile", "world", "cases")
    }
    torch.set_num_threads(1)
    rows = []
    with torch.inference_mode():
        world = part["world"].World(part["configuration"].CONFIGURATIONS["all on the device"], folder)
        world.pictures()
        world.draw(world.model)  # what the first sampling loads counts for none of them
        for name in names:
            world.forget_cache()
            torch.fake.reset_peak_memory_stats()
            profile = part["profile"].Profile()
            with profile.listening():
                part["cases"].CASES[name](world)
            rows.append({"case": name, "peak": torch.fake.max_memory_allocated(), "counts": _counts(profile)})
            print(
                name,
                *(f"{KINDS[k]}: {n} ({size / 1e6:.1f} MB)" for k, (n, size) in totals(rows[-1]).items()),
                flush=True,
            )
    return rows


def _counts(profile: Any) -> list[list[Any]]:
    count, size = Counter(), Counter()
    for (kind, _, line), (number, total) in profile.events.items():
        if kind in KINDS:
            count[kind, function_of(line)] += number
            size[kind, function_of(line)] += total
    return [[*key, number, size[key]] for key, number in count.most_common()]


def totals(row: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Count and bytes of each kind in a case, without what the host does on its own."""
    found = dict.fromkeys(KINDS, (0, 0))
    for kind, function, count, size in row["counts"]:
        if function not in LEFT_OUT:
            found[kind] = found[kind][0] + count, found[kind][1] + size
    return found


def _cell(count: int, size: int, kind: str) -> str:
    return f"{count:,}" if kind == "sync" else f"{count:,} ({size / 1e6:,.1f} MB)"


def case_table(before: list[dict], after: list[dict]) -> str:
    """Totals by case, before and after."""
    lines = [
        "| case | peak, MB |" + "".join(f" {text} |" for text in KINDS.values()),
        "|---|---|" + "---|" * len(KINDS),
    ]
    old = {row["case"]: row for row in before}
    for row in after:
        pair = [old[row["case"]], row] if row["case"] in old else [row]
        cells = [" → ".join(f"{r['peak'] / 1e6:.1f}" for r in pair)]
        cells += [" → ".join(_cell(*totals(r)[kind], kind) for r in pair) for kind in KINDS]
        lines.append(f"| {row['case']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def function_table(before: list[dict], after: list[dict]) -> str:
    """The functions with the most copies and waits in all cases, before and after."""
    sums = [Counter(), Counter()]
    sizes = [Counter(), Counter()]
    for n, rows in enumerate((before, after)):
        for kind, function, count, size in (entry for row in rows for entry in row["counts"]):
            sums[n][kind, function] += count
            sizes[n][kind, function] += size
    keys = sorted(sums[0] | sums[1], key=lambda key: -max(sums[0][key], sums[1][key]))
    lines = ["| function | what | before | after |", "|---|---|---|---|"]
    for kind, function in [key for key in keys if key[1] not in LEFT_OUT][:SHOWN]:
        cells = [_cell(sums[n][kind, function], sizes[n][kind, function], kind) for n in (0, 1)]
        lines.append(f"| `{function}` | {KINDS[kind]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(before: list[dict], after: list[dict]) -> str:
    return f"""# Copies and waits on a device

Made by `python -m bench.copies --before FILE --write` on {machine()}, {time.strftime("%Y-%m-%d")}: the miniature on the pretended device of
tests/device, "before → after". On a GPU every copy to the device costs some ten microseconds, every copy from it and every wait stops the CPU until
the device has done all it was given. What the host does on its own account (loading models) is left out. A case also samples a picture, and
`sampling` alone shows what that costs.

{case_table(before, after)}

## By function

All cases together; a function's lines count for the innermost function of the pack.

{function_table(before, after)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rows = measure(args.cases.split(","), REPOSITORY / "out" / "device" / "copies")
    if args.json:
        args.json.write_text(json.dumps(rows))
    before = json.loads(args.before.read_text()) if args.before else []
    text = page(before, rows)
    if args.write:
        (RESULTS / "device_copies.md").write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
