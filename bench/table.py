"""This pack and its peers side by side on the miniature: python -m bench.table [--quick] [--model flux] [--json FILE] [--workers N] [--database FILE]

Measures the concepts of bench/concept_bench/miniature.json with every method and three seeds, then writes the page
bench/results/concept_bench.md (not with --methods, --concepts or --seeds). After an interruption the same command goes
on. --quick: "cat" and "noto", one seed, fewer pictures, the methods in QUICK, from an empty database unless one is
named, and no results page. --model flux: on the miniature FLUX, with the methods that exist for it. --json FILE: rows of method, kind, concepts, H_o, UA, ua_contexts, residue_probability,
residue_similarity, IRA, CRA, attacked, drift, seconds, artefact_bytes and other figures, see
bench/concept_bench/report.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.concept_bench.concepts import MINIATURE, MINIATURE_FLUX
from bench.concept_bench.method_registry import NOTHING, methods_of
from bench.concept_bench.provenance import this_command
from bench.concept_bench.report import read_results, tables, write_json, write_page
from bench.concept_bench.run import DATABASE, add_arguments, parse_concepts, parse_methods, run_pending
from bench.concept_bench.tasks import Task, tasks_of

QUICK = (NOTHING, "closed form", "closed form, listed", "re-steering", "FMN, searched rate", "UCE", "RECE")
QUICK_CONCEPTS, QUICK_DATABASE = (("cat",), ("noto",)), DATABASE.with_name("quick.sqlite")


def tasks(args: argparse.Namespace) -> list[Task]:
    """The tasks that the arguments choose."""
    model = model_of(args)
    if args.quick and args.methods is None:
        methods = [name for name in QUICK if name in methods_of(model)]
    else:
        methods = parse_methods(args.methods, model)
    concepts = list(QUICK_CONCEPTS) if args.quick and args.concepts is None else parse_concepts(args.concepts)
    seeds = args.seeds or (1 if args.quick else 3)
    return tasks_of(methods, concepts, seeds, "quick" if args.quick else "full", model=model)


def model_of(args: argparse.Namespace) -> str:
    """Label of the model that the arguments choose."""
    return MINIATURE_FLUX if args.model == "flux" else MINIATURE


def database_of(args: argparse.Namespace) -> Path:
    """The database that the arguments name, or the default; a quick run's default is deleted first."""
    if args.database is None and args.quick:
        for path in QUICK_DATABASE.parent.glob(QUICK_DATABASE.name + "*"):
            path.unlink()
    return args.database or (QUICK_DATABASE if args.quick else DATABASE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, None)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--model", choices=("unet", "flux"), default="unet")
    parser.add_argument(
        "--quick", action="store_true", help="one object, one style, one seed, cheap methods; no results page"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    database = database_of(args)
    failed = run_pending(tasks(args), database, this_command("bench.table"), args.workers, args.ray)
    report = read_results(database, "quick" if args.quick else "full", model_of(args))
    print(tables(report))
    if args.json:
        write_json(report, args.json)
    if not (args.quick or args.methods or args.concepts or args.seeds):
        write_page(report)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
