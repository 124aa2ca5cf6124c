"""ConceptBench: python -m bench.concept_bench.run [--concepts cat,noto,cat+car] [--methods A,B] [--seeds 3] [--workers N] [--database FILE] [--ray [ADDRESS]]

Every method forgets every concept once for each seed. Tasks with a result in the database are skipped, failed ones are
tried again. "cat+car" forgets both at once; without --concepts the run has the whole list, one at a time, and its ten
objects at once. Then: python -m bench.concept_bench.report FILE

The model is the miniature, or a Stable Diffusion 1.x, 2.x or XL checkpoint in one file, on a GPU where there is one. The judge
of a checkpoint is any CLIP that transformers loads from a local folder, and peers have their published settings:
    python -m bench.concept_bench.run --model FILE.safetensors --judge FOLDER [--concepts "a zebra,Claude Monet"] [--size 512] [--steps 20] [--guidance 7.5] [--pictures 10]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.concept_bench.baseline_cache import digest_of
from bench.concept_bench.concepts import MINIATURE, STABLE_DIFFUSION, load_list
from bench.concept_bench.local import in_processes, in_this_process
from bench.concept_bench.provenance import this_command
from bench.concept_bench.store import Store
from bench.concept_bench.tasks import Checkpoint, Task, tasks_of
from bench.concept_bench.worker import Outcome
from tools.comfy_host import REPOSITORY

DATABASE = REPOSITORY / "out" / "concept_bench" / "table.sqlite"


def default_concepts(name: str = MINIATURE) -> list[tuple[str, ...]]:
    """Every concept of a list, and all its objects at once, without placeholders."""
    listed = [c for c in load_list(name).values() if not c.placeholder]
    return [(c.name,) for c in listed] + [tuple(c.name for c in listed if c.group == "object")]


def run_tasks(tasks: list[Task], command: str, workers: int = 1, ray: str | None = None) -> Iterable[Outcome]:
    """Runs tasks on Ray, in several processes, or in this one, and yields their outcomes."""
    if ray is not None:
        from bench.concept_bench.on_ray import on_ray

        return on_ray(tasks, command, ray, max(2, workers))
    return in_processes(tasks, command, workers) if workers > 1 else in_this_process(tasks, command)


def store_outcomes(store: Store, outcomes: Iterable[Outcome], total: int, command: str) -> int:
    """Writes outcomes to the store as they come, prints a line for each, and returns the number of failures."""
    failed = 0
    for number, outcome in enumerate(outcomes, 1):
        if outcome.row is None:
            failed += 1
            store.fail(outcome.key, outcome.error, command)
            print(f"[{number}/{total}] {outcome.key}: FAILED, {outcome.error.strip().splitlines()[-1]}", flush=True)
        elif store.put(outcome.row):
            print(f"[{number}/{total}] {outcome.key}: {summary_line(outcome.row['figures'])}", flush=True)
    return failed


def summary_line(figures: dict) -> str:
    """The main figures of a cell in one line."""
    shown = ("H_o", "UA", "IRA", "CRA", "attacked", "drift", "seconds", "cell_seconds")
    return ", ".join(f"{k} {figures[k]:.4g}" for k in shown if isinstance(figures.get(k), int | float))


def run_pending(tasks: Sequence[Task], database: Path, command: str, workers: int = 1, ray: str | None = None) -> int:
    """Runs the tasks without a result in the database; returns the number of failures."""
    with Store(database) as store:
        pending = store.pending(tasks)
        print(f"{len(pending)} of {len(tasks)} tasks to do, results in {database}", flush=True)
        outcomes = run_tasks(pending, command, workers, ray)
        return store_outcomes(store, outcomes, len(pending), command) if pending else 0


def parse_methods(text: str | None, model: str = MINIATURE) -> list[str]:
    """Registered names in a text that joins them by commas; raises ValueError on an unknown one.

    Notes
    -----
    Some names contain ", ", so the longest name that fits is taken at each place.
    """
    from bench.concept_bench.method_registry import methods_of

    known = methods_of(model)
    if text is None:
        return list(known)
    rest, methods = text, []
    while rest:
        name = max((n for n in known if rest == n or rest.startswith(n + ",")), key=len, default="")
        if not name:
            raise ValueError(f"Expected methods of {'; '.join(known)}, joined by commas; got {rest!r}.")
        methods.append(name)
        rest = rest[len(name) + 1 :].strip()
    return methods


def add_arguments(parser: argparse.ArgumentParser, database: Path | None = DATABASE) -> None:
    """Adds the arguments of every run to a parser."""
    parser.add_argument("--methods", help="names joined by commas; without it all")
    parser.add_argument("--concepts", help="joined by commas; + joins what is forgotten at once")
    parser.add_argument("--workers", type=int, default=1, help="processes of one torch thread each")
    parser.add_argument("--database", type=Path, default=database)
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="on Ray: at an address, or a cluster of this machine"
    )


def parse_concepts(text: str | None, name: str = MINIATURE) -> list[tuple[str, ...]]:
    """Groups of concepts in a text such as "cat,cat+car"; without a text those of a list."""
    if text is None:
        return default_concepts(name)
    return [tuple(concept.strip() for concept in group.split("+")) for group in text.split(",")]


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a run on a checkpoint to a parser."""
    group = parser.add_argument_group("a checkpoint in place of the miniature")
    group.add_argument("--model", type=Path, help="one file with UNet, text encoders and VAE")
    group.add_argument("--judge", type=Path, help="folder of a CLIP for transformers")
    group.add_argument("--size", type=int, default=Checkpoint.size, help="width and height in pixels")
    group.add_argument("--steps", type=int, default=Checkpoint.steps)
    group.add_argument("--guidance", type=float, default=Checkpoint.guidance)
    group.add_argument("--pictures", type=int, default=Checkpoint.pictures, help="of each concept by its name")


def checkpoint_of(args: argparse.Namespace) -> Checkpoint | None:
    """The checkpoint that the arguments name; raises ValueError on a missing file or a number out of range."""
    if args.model is None:
        return None
    if not args.model.is_file():
        raise ValueError(f"Expected a checkpoint in {args.model}, found no file.")
    if args.judge is None or not (args.judge / "config.json").is_file():
        raise ValueError(f"Expected a folder of a CLIP with its config.json for --judge, got {args.judge}.")
    if args.model.stem == MINIATURE:
        raise ValueError(f"Expected a checkpoint of another name than {MINIATURE}. Rename the file.")
    if args.size < 64 or args.size % 64 or min(args.steps, args.pictures) < 1:
        raise ValueError(
            f"Expected a size in steps of 64, and steps and pictures from 1, got {args.size}, {args.steps} and {args.pictures}."
        )
    files = str(args.model.resolve()), digest_of(args.model), str(args.judge.resolve())
    return Checkpoint(*files, args.size, args.steps, args.guidance, args.pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, None)
    add_checkpoint_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    try:
        checkpoint = checkpoint_of(args)
    except ValueError as error:
        parser.error(str(error))
    concepts = parse_concepts(args.concepts, MINIATURE if checkpoint is None else STABLE_DIFFUSION)
    tasks = tasks_of(parse_methods(args.methods), concepts, args.seeds, checkpoint=checkpoint)
    database = args.database or (DATABASE if checkpoint is None else DATABASE.with_name(f"{checkpoint.label}.sqlite"))
    command = this_command("bench.concept_bench.run")
    raise SystemExit(1 if run_pending(tasks, database, command, args.workers, args.ray) else 0)


if __name__ == "__main__":
    main()
