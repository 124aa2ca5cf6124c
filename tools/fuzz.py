"""Lists, loads and applies mutated patch files: python -m tools.fuzz [--files 10000] [--json FILE] [--page FILE]

Fails when a file is counted as wrong. With 5,000 files or more it writes the page bench/results/fuzz.md. The columns:

refused: ForgetError with a message that can be shown.
same: loaded with the content of the valid file.
changed: loaded with other content, and usable: it fits the whole model and changes weights as its factors say. A flipped bit of
    a weight gives just another weight.
wrong: all else, such as another exception, a patch loaded in part, a new file in the folder, a file that exceeds the bounds.
slowest_ms: CPU time of the slowest file. most_mb: the greatest rise of the process's peak memory at one file.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import resource
import tempfile
import time
from pathlib import Path

import torch

from bench.results_page import RESULTS, machine, markdown_table
from fmn_core.concepts.concept import concept_from_dict
from fmn_core.concepts.templates import fill_template
from fmn_core.errors import LONGEST_MESSAGE, ForgetError
from fmn_core.patch.file import load_metadata, load_patch
from fmn_core.patch.fit import check_fit
from fmn_core.patch.parts import parts_of
from fmn_core.patch.patch import ForgetPatch, base_difference
from tools import hostile_files

COLUMNS = ("kind", "files", "refused", "same", "changed", "wrong", "slowest_ms", "most_mb")
# Bounds of a single file. CPU time does not depend on other processes.
MOST_CPU_SECONDS, HANG_SECONDS = 5.0, 120
# Memory in addition to 25 times the file's size.
MOST_MEMORY_MB = 100


def layer_shapes(patch: ForgetPatch) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that a patch is for, by layer."""
    return {name: f.shape for name, f in patch.factors.items()}


def usable(patch: ForgetPatch, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether every node can use a patch that fits the model.

    Its changes of weights must follow from its factors and be finite in half precision, and its metadata must be fit to be
    reported, listed and written again.
    """
    for name, f in patch.factors.items():
        weight = torch.zeros(shapes[name])
        weight += f.delta().reshape(shapes[name])
        changes = bool((f.up.float().flatten(1) @ f.down.float().flatten(1)).any())
        if not torch.isfinite(weight.half()).all() or bool(weight.any()) != changes:
            return False
    json.dumps([patch.concepts, patch.base, patch.settings, patch.figures, patch.parts], allow_nan=False)
    texts = [*patch.metadata().values(), patch.tool, base_difference(patch.base, {"shapes": [], "norms": [1.0]})]
    for text in texts:
        text.encode()
    for saved in patch.concepts:
        concept = concept_from_dict(saved)
        for template in concept.templates if concept else ():
            fill_template(template, "zebra")
    parts_of(patch)
    return all("\n" not in phrase for saved in patch.concepts for phrase in saved["phrases"])


def equal(patch: ForgetPatch, good: ForgetPatch) -> bool:
    """Whether two patches have the same factors and metadata."""
    tensors, expected = patch.state_dict(), good.state_dict()
    if tensors.keys() != expected.keys() or not all(torch.equal(tensors[k], expected[k]) for k in tensors):
        return False
    return patch.metadata() == good.metadata()


def outcome(path: Path, good: ForgetPatch) -> str:
    """Lists, loads and fits a file; returns the column that it counts in."""
    shapes = layer_shapes(good)
    try:
        list_file(path)
        patch = load_patch(path)
        check_fit(patch, shapes)
    except ForgetError as error:
        message = str(error)
        message.encode()
        return "refused" if len(message) <= LONGEST_MESSAGE and "\n" not in message else "wrong"
    except Exception as error:  # Counted as wrong, and printed.
        print(f"{path}: {type(error).__name__}: {error}", flush=True)
        return "wrong"
    if not usable(patch, shapes):
        return "wrong"
    return "same" if equal(patch, good) else "changed"


def list_file(path: Path) -> None:
    """Reads a file's metadata as the patch browser does, which may refuse a header that `load_patch` accepts."""
    with contextlib.suppress(ForgetError):
        load_metadata(path)


def peak_memory() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def measure(files: int) -> list[dict]:
    """Counts the outcomes of this many mutated files: one row of COLUMNS for each kind of mutation."""
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
                path.write_bytes(hostile_files.mutate(data, kind, seed))
                started, before = time.process_time(), peak_memory()
                faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
                row[outcome(path, good)] += 1
                faulthandler.cancel_dump_traceback_later()
                seconds = time.process_time() - started
                row["slowest_ms"] = max(row["slowest_ms"], round(1000 * seconds))
                row["most_mb"] = max(row["most_mb"], round(peak_memory() - before))
                if (
                    seconds > MOST_CPU_SECONDS
                    or peak_memory() - before > MOST_MEMORY_MB + 25 * path.stat().st_size / 1e6
                ):
                    print(f"{kind} {seed}: {seconds:.1f} s, {peak_memory() - before:.0f} MB", flush=True)
                    row["wrong"] += 1
                row["wrong"] += len(list(Path(folder).iterdir())) - 1
            rows.append({c: row[c] for c in COLUMNS})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, default=RESULTS / "fuzz.md")
    args = parser.parse_args()
    before = peak_memory()
    rows = measure(args.files)
    grown = peak_memory() - before
    table = markdown_table(rows, COLUMNS)
    print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine()}, indent=2) + "\n")
    if args.files >= 5_000:
        total = {c: sum(r[c] for r in rows) for c in COLUMNS[1:-2]}
        text = f"""# {total["files"]:,} mutated patch files

Made by `python -m tools.fuzz --files {args.files}` on {machine()}, {time.strftime("%Y-%m-%d")}. A good patch of {len(hostile_files.good_file())} bytes, mutated and
listed, loaded and applied by the code that every node uses. {total["refused"]:,} were refused with a message, {total["same"]:,} loaded as the good file, {total["changed"]:,} loaded whole with other
contents (a flipped bit of a weight cannot be told from a weight), {total["wrong"]} did anything else. Memory grew by {grown:.0f} MB over all of them.

{table}
"""
        args.page.write_text(text)

    if any(row["wrong"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
