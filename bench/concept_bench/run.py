"""ConceptBench: python -m bench.concept_bench.run [--concepts cat,noto,cat+car] [--methods A,B] [--seeds 3] [--workers N] [--database FILE] [--ray [ADDRESS]]

Every method forgets every concept once for each seed; what is in the database is not done again, what failed is tried again. "cat+car": both at
once; without --concepts the whole list, one at a time, and its ten objects at once. Then: python -m bench.concept_bench.report FILE

It runs on the miniature, or on a Stable Diffusion 1.x, 2.x or XL checkpoint in one file, with any CLIP that transformers loads from a local folder as
judge, on a GPU where there is one. Peers have their published settings there:
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
    """Every concept of a list, and all its objects at once; placeholders are left out."""
    listed = [c for c in load_list(name).values() if not c.placeholder]
    return [(c.name,) for c in listed] + [tuple(c.name for c in listed if c.group == "object")]


def outcomes(tasks: list[Task], command: str, workers: int = 1, ray: str | None = None) -> Iterable[Outcome]:
    """The tasks done where they were asked to be."""
    if ray is not None:
        from bench.concept_bench.on_ray import on_ray

        return on_ray(tasks, command, ray, max(2, workers))
    return in_processes(tasks, command, workers) if workers > 1 else in_this_process(tasks, command)


def keep(store: Store, found: Iterable[Outcome], total: int, command: str) -> int:
    """Writes outcomes as they come, one line each, and returns how many failed."""
    failed = 0
    for number, outcome in enumerate(found, 1):
        if outcome.row is None:
            failed += 1
            store.fail(outcome.key, outcome.error, command)
            print(f"[{number}/{total}] {outcome.key}: FAILED, {outcome.error.strip().splitlines()[-1]}", flush=True)
        elif store.put(outcome.row):
            print(f"[{number}/{total}] {outcome.key}: {line_of(outcome.row['figures'])}", flush=True)
    return failed


def line_of(figures: dict) -> str:
    shown = ("H_o", "UA", "IRA", "CRA", "attacked", "drift", "seconds", "cell_seconds")
    return ", ".join(f"{k} {figures[k]:.4g}" for k in shown if isinstance(figures.get(k), int | float))


def run(tasks: Sequence[Task], database: Path, command: str, workers: int = 1, ray: str | None = None) -> int:
    """Does what the database does not hold yet; returns how many tasks failed."""
    with Store(database) as store:
        todo = store.pending(tasks)
        print(f"{len(todo)} of {len(tasks)} tasks to do, results in {database}", flush=True)
        return keep(store, outcomes(todo, command, workers, ray), len(todo), command) if todo else 0


def chosen_methods(text: str | None) -> list[str]:
    """Names joined by "," as they are registered (some hold ", " themselves). Raises ValueError on one that is not."""
    from bench.concept_bench.method_registry import all_methods

    known = all_methods()
    if text is None:
        return list(known)
    left, found = text, []
    while left:
        name = max((n for n in known if left == n or left.startswith(n + ",")), key=len, default="")
        if not name:
            raise ValueError(f"Expected methods of {'; '.join(known)}, joined by commas; got {left!r}.")
        found.append(name)
        left = left[len(name) + 1 :].strip()
    return found


def add_arguments(parser: argparse.ArgumentParser, database: Path | None = DATABASE) -> None:
    parser.add_argument("--methods", help="names joined by commas; without it all")
    parser.add_argument("--concepts", help="joined by commas; + joins what is forgotten at once")
    parser.add_argument("--workers", type=int, default=1, help="processes of one torch thread each")
    parser.add_argument("--database", type=Path, default=database)
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="on Ray: at an address, or a cluster of this machine"
    )


def parsed_concepts(text: str | None, name: str = MINIATURE) -> list[tuple[str, ...]]:
    if text is None:
        return default_concepts(name)
    return [tuple(one.strip() for one in part.split("+")) for part in text.split(",")]


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    given = parser.add_argument_group("a checkpoint in place of the miniature")
    given.add_argument("--model", type=Path, help="one file with UNet, text encoders and VAE")
    given.add_argument("--judge", type=Path, help="folder of a CLIP for transformers")
    given.add_argument("--size", type=int, default=Checkpoint.size, help="width and height in pixels")
    given.add_argument("--steps", type=int, default=Checkpoint.steps)
    given.add_argument("--guidance", type=float, default=Checkpoint.guidance)
    given.add_argument("--pictures", type=int, default=Checkpoint.pictures, help="of each concept by its name")


def checkpoint_of(args: argparse.Namespace) -> Checkpoint | None:
    """The checkpoint that the arguments name. Raises ValueError where it or its judge is not there, or a number is too small."""
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
    add_checkpoint(parser)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    try:
        checkpoint = checkpoint_of(args)
    except ValueError as error:
        parser.error(str(error))
    concepts = parsed_concepts(args.concepts, MINIATURE if checkpoint is None else STABLE_DIFFUSION)
    tasks = tasks_of(chosen_methods(args.methods), concepts, args.seeds, checkpoint=checkpoint)
    database = args.database or (DATABASE if checkpoint is None else DATABASE.with_name(f"{checkpoint.label}.sqlite"))
    command = this_command("bench.concept_bench.run")
    raise SystemExit(1 if run(tasks, database, command, args.workers, args.ray) else 0)


if __name__ == "__main__":
    main()
