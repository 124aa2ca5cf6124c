"""Mutated patch files, loaded one by one: python -m tools.fuzz [--files 10000] [--json FILE]

Rows: kind, files, refused, same, changed, wrong, slowest_ms. same: loaded as what the good file holds; changed: loaded, whole and usable,
with other contents than the good file (a flipped bit of a weight cannot be told from a weight); wrong: anything else, an
exception of another kind, a part of a patch, a file that appeared. Writes bench/results/fuzz.md with 10,000 files or more.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch

from bench.results_page import RESULTS, machine, markdown_table
from fmn_core.errors import ForgetError
from fmn_core.patch.file import load_patch
from fmn_core.patch.patch import ForgetPatch
from tools import hostile_files

COLUMNS = ("kind", "files", "refused", "same", "changed", "wrong", "slowest_ms")


def usable(patch: ForgetPatch) -> bool:
    """Whether every layer can be multiplied out and all metadata written again."""
    fits = all(f.up.shape[1] == f.down.shape[0] == f.rank >= 1 for f in patch.factors.values())
    patch.metadata()
    return fits and all(bool(torch.isfinite(f.delta()).all()) for f in patch.factors.values())


def same(patch: ForgetPatch, good: ForgetPatch) -> bool:
    ours, theirs = patch.state_dict(), good.state_dict()
    tensors = ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    return tensors and patch.metadata() == good.metadata()


def outcome(path: Path, good: ForgetPatch) -> str:
    """The outcome of loading a file: one of the columns."""
    try:
        patch = load_patch(path)
    except ForgetError:
        return "refused"
    except Exception as error:  # counted, and shown
        print(f"{path}: {type(error).__name__}: {error}", flush=True)
        return "wrong"
    if same(patch, good):
        return "same"
    return "changed" if usable(patch) else "wrong"


def measure(files: int) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patch.safetensors"
        data = hostile_files.good_file()
        path.write_bytes(data)
        good = load_patch(path)
        for number, kind in enumerate(hostile_files.KINDS):
            seeds = range(number, files, len(hostile_files.KINDS))
            row = dict.fromkeys(COLUMNS[2:], 0) | {"kind": kind, "files": len(seeds)}
            for seed in seeds:
                path.write_bytes(hostile_files.mutated(data, kind, seed))
                started = time.perf_counter()
                row[outcome(path, good)] += 1
                row["slowest_ms"] = max(row["slowest_ms"], round(1000 * (time.perf_counter() - started)))
                row["wrong"] += len(list(Path(folder).iterdir())) - 1
            rows.append({c: row[c] for c in COLUMNS})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = measure(args.files)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    table = markdown_table(rows, COLUMNS)
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if args.files >= 10_000:
        total = {c: sum(r[c] for r in rows) for c in COLUMNS[1:-1]}
        text = f"""# {total["files"]:,} mutated patch files

Made by `python -m tools.fuzz --files {args.files}` on {machine()}, {time.strftime("%Y-%m-%d")}. A good patch of {len(hostile_files.good_file())} bytes, mutated and
loaded by the code that every node uses. {total["refused"]:,} were refused with a message, {total["same"]:,} loaded as the good file, {total["changed"]:,} loaded whole with other
contents (a flipped bit of a weight cannot be told from a weight), {total["wrong"]} did anything else. Memory grew by {grown:.0f} MB over all of them.

{table}
"""
        (RESULTS / "fuzz.md").write_text(text)


if __name__ == "__main__":
    main()
