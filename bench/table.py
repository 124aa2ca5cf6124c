"""This pack and its peers side by side on the miniature: python -m bench.table [--quick] [--json FILE] [--workers N] [--database FILE]

The concepts of bench/concept_bench/miniature.json, every method, three seeds; then the page bench/results/concept_bench.md (not with --methods,
--concepts or --seeds). Interrupted, the same command goes on.
--quick: "cat" and "noto", one seed, fewer pictures, the methods in QUICK, from an empty database unless one is named; writes no results page. --json FILE:
rows of method, kind, concepts, H_o, UA, IRA, CRA, attacked, drift, seconds, artefact_bytes and the rest (see bench/concept_bench/report.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.concept_bench.method_registry import NOTHING, all_methods
from bench.concept_bench.provenance import this_command
from bench.concept_bench.report import found_in, tables, write, write_json
from bench.concept_bench.run import DATABASE, add_arguments, chosen_methods, parsed_concepts, run
from bench.concept_bench.tasks import Task, tasks_of

QUICK = (NOTHING, "closed form", "closed form, listed", "re-steering", "FMN as released", "UCE", "RECE")
QUICK_CONCEPTS, QUICK_DATABASE = (("cat",), ("noto",)), DATABASE.with_name("quick.sqlite")


def tasks(args: argparse.Namespace) -> list[Task]:
    """What the arguments ask for."""
    if args.quick and args.methods is None:
        methods = [name for name in QUICK if name in all_methods()]
    else:
        methods = chosen_methods(args.methods)
    concepts = list(QUICK_CONCEPTS) if args.quick and args.concepts is None else parsed_concepts(args.concepts)
    return tasks_of(methods, concepts, args.seeds or (1 if args.quick else 3), "quick" if args.quick else "full")


def database_of(args: argparse.Namespace) -> Path:
    """The named file, or the default; a quick run without a name begins with none."""
    if args.database is None and args.quick:
        for path in QUICK_DATABASE.parent.glob(QUICK_DATABASE.name + "*"):
            path.unlink()
    return args.database or (QUICK_DATABASE if args.quick else DATABASE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, None)
    parser.add_argument("--seeds", type=int)
    parser.add_argument(
        "--quick", action="store_true", help="one object, one style, one seed, cheap methods; no results page"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    database = database_of(args)
    failed = run(tasks(args), database, this_command("bench.table"), args.workers, args.ray)
    found = found_in(database, "quick" if args.quick else "full")
    print(tables(found))
    if args.json:
        write_json(found, args.json)
    if not (args.quick or args.methods or args.concepts or args.seeds):
        write(found)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
