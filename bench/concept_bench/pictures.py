"""Pictures of every method: python -m bench.concept_bench.pictures [--concepts wizard,cat,car,noto] [--methods A,B] [--seed 0] [--out FOLDER]

For each concept a page with a row for each method and one for the ablated prompt: the pictures of the table (its prompts
and seeds), of the concept by its name in each style, by its synonym, in other contexts, and of two others. Below each
picture stands what the judge sees. "cat+car" forgets both at once. Rows that were drawn are in out/concept_bench/pictures,
so an interrupted run goes on. Writes bench/results/concept_bench_pictures.md with a .png for each concept; with --methods,
which leaves rows out, to out/concept_bench.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from bench.concept_bench.asks import asks_of
from bench.concept_bench.baseline_cache import BaselineCache, digest_of
from bench.concept_bench.concepts import MINIATURE, load_list
from bench.concept_bench.method_registry import NOTHING, all_methods
from bench.concept_bench.miniature_world import BenchWorld
from bench.concept_bench.provenance import git_commit, this_command
from bench.concept_bench.residue import ablated_ask
from bench.concept_bench.run import parse_concepts, parse_methods
from bench.concept_bench.tasks import Task
from bench.picture_pages import grid_page
from bench.results_page import RESULTS, machine
from bench.world import Ask
from mini_sd.concepts import STYLE_NAMES
from mini_sd.judge import CLASS_NAMES, probabilities
from tools.comfy_host import REPOSITORY

OUT = REPOSITORY / "out" / "concept_bench"
STEM = "concept_bench_pictures"
# An identity, an animal, a thing of another kind and a style.
CONCEPTS = "wizard,cat,car,noto"
ABLATED = "ablated prompt, untouched model"
CELL, LEFT = 84, 244
# Pictures of the target, of the contexts and of others; a thing has one of the target in each style.
MOST_TARGETS, CONTEXTS, OTHERS = 10, 2, 2
SUBJECTS_OF_A_STYLE = 4
LONGEST_NAME = 9
# Rows are drawn again when one of these sources changes.
SOURCES = ("fmn_core", "nodes", "bench/peers", "bench/methods.py", "bench/published_loop.py", "bench/concept_bench/method_registry.py")  # fmt: skip


@dataclass
class Columns:
    """Pictures of a page's row: an ask with a label for each, of which the first `forgotten` show the concept."""

    ask: Ask
    labels: list[str]
    forgotten: int


def columns_of(task: Task) -> Columns:
    """The pictures of a task's asks that its page shows."""
    asks, is_style = asks_of(task), load_list(MINIATURE)[task.concepts[0]].group == "style"
    target, columns = asks["target"], Columns(Ask(), [], 0)
    by_style = not is_style and len(task.concepts) == 1
    most = SUBJECTS_OF_A_STYLE if is_style else MOST_TARGETS
    for n in _firsts(target.styles if by_style else target.concepts)[:most]:
        _add(columns, target, n, target.styles[n] if by_style else target.concepts[n])
    synonym, contexts, others = asks["synonym"], asks["contexts"], asks["others"]
    _add(columns, synonym, 0, "in other\nwords" if is_style else "by a\nsynonym")
    for n in range(min(CONTEXTS, len(contexts.prompts))):
        label = contexts.concepts[n] if is_style else contexts.styles[n] or "no style"
        _add(columns, contexts, n, f"context:\n{label}")
    columns.forgotten = len(columns.labels)
    names = others.styles if is_style else others.concepts
    for n in _firsts(names)[:OTHERS]:
        _add(columns, others, n, f"other:\n{names[n]}")
    return columns


def _firsts(labels: list[str]) -> list[int]:
    """Number of the first picture of each label."""
    return [labels.index(label) for label in dict.fromkeys(labels)]


def _add(columns: Columns, ask: Ask, n: int, label: str) -> None:
    columns.ask.append(ask.prompts[n], ask.seeds[n], ask.concepts[n], ask.styles[n])
    columns.labels.append(label)


def ablated_columns(task: Task, columns: Columns) -> Ask:
    """The ask of a row without the concept's words in the pictures that show it."""
    ask, ablated, k = columns.ask, ablated_ask(task, columns.ask), columns.forgotten
    return Ask([*ablated.prompts[:k], *ask.prompts[k:]], ask.seeds, ask.concepts, ask.styles)


def row_cache(folder: Path = OUT / "pictures") -> BaselineCache:
    """Cache of the rows, which depend on the miniature and on the sources of the methods."""
    paths = [REPOSITORY / source for source in SOURCES]
    files = [f for p in paths for f in ([p] if p.is_file() else sorted(p.rglob("*.py")))]
    weights = REPOSITORY / "mini_sd" / "weights" / "mini_sd.safetensors"
    return BaselineCache(folder, [digest_of(weights, *files), torch.__version__])


def method_row(world: BenchWorld, cache: BaselineCache, task: Task, ask: Ask) -> torch.Tensor:
    """Pictures (B, H, W, 3) in 0..1 of an ask after a method has forgotten the task's concepts, drawn once."""

    def draw() -> torch.Tensor:
        started = time.perf_counter()
        with all_methods()[task.method](world, *task.concepts, seed=task.seed) as applied:
            images = applied.sampler(ask) if applied.sampler else world.sample(ask, applied.model)
        print(f"{task.key}: {time.perf_counter() - started:.1f} s", flush=True)
        return (images.clamp(0, 1) * 255).round().to(torch.uint8)

    return cache.images([task.key, world.steps, world.guidance, ask.prompts, ask.seeds], draw).float() / 255


def concept_page(world: BenchWorld, cache: BaselineCache, task: Task, methods: list[str]) -> Image.Image:
    """Page of a task's concepts, with a row for each method and the ablated prompt's row below the untouched model's."""
    world.asks(task)  # sets the sampling steps
    columns, rows = columns_of(task), {}
    for method in methods:
        of_method = Task(task.model, method, task.concepts, task.seed, task.ask)
        rows[method] = method_row(world, cache, of_method, columns.ask)
        if method == NOTHING:
            rows[ABLATED] = world.sample(ablated_columns(task, columns))
    captions = [c for images in rows.values() for c in captions_of(world, task, columns, images)]
    return grid_page(torch.cat(list(rows.values())), list(rows), columns.labels, CELL, LEFT, captions)


def captions_of(world: BenchWorld, task: Task, columns: Columns, images: torch.Tensor) -> list[tuple[str, str]]:
    """What the judge sees in each picture of a row, and how probable the concept is; red where it sees the concept."""
    is_style = task.concepts[0] in STYLE_NAMES
    names = STYLE_NAMES if is_style else CLASS_NAMES
    shares = probabilities(world.judge, images)[is_style]
    asked, captions = columns.ask.styles if is_style else columns.ask.concepts, []
    for n, share in enumerate(shares):
        seen = names[int(share.argmax())]
        if n < columns.forgotten:
            label = asked[n] or task.concepts[0]
            text = f"{seen[:LONGEST_NAME]} {share[names.index(label)]:.2f}"
            captions.append((text, "firebrick" if seen == label else "dimgray"))
        else:
            captions.append((seen[: LONGEST_NAME + 4], "dimgray" if seen == asked[n] else "darkorange"))
    return captions


def page_text(tasks: list[Task], methods: list[str]) -> str:
    """Text of the page that shows the pictures of all tasks."""
    sections = "\n\n".join(_section(task) for task in tasks)
    return f"""# Pictures of ConceptBench

Every method of ConceptBench after forgetting one concept at a time, on the prompts and seeds of its table (Euler, 8 steps, guidance 3), seed {tasks[0].seed}. Below each picture:
what the judge sees, and the probability that it gives the concept; red where it sees the concept, orange where another concept is not what was asked. The row "{NOTHING}" is the
model itself, and the row below it what the same model draws when the concept's words are deleted from the prompt.

{sections}

Made by `{this_command("bench.concept_bench.pictures")}` at {git_commit()}, {machine()}, {time.strftime("%Y-%m-%d")}; {len(methods)} methods.
"""


def _section(task: Task) -> str:
    columns, name = columns_of(task), ", ".join(task.concepts)
    prompts = "\n".join(
        f"| {n + 1} | {prompt} | {seed} |"
        for n, (prompt, seed) in enumerate(zip(columns.ask.prompts, columns.ask.seeds))
    )
    return f"""## {name}

![{name} by method]({picture_name(task)})

| column | prompt | seed |
|---|---|---|
{prompts}"""


def picture_name(task: Task) -> str:
    """File name of a task's pictures."""
    return f"{STEM}-{'+'.join(task.concepts).replace(' ', '_')}.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", default=CONCEPTS, help="joined by commas; + joins what is forgotten at once")
    parser.add_argument("--methods", help="names joined by commas; without it all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the page")
    args = parser.parse_args()
    methods, folder = parse_methods(args.methods), args.out or (OUT if args.methods else RESULTS)
    tasks = [Task(MINIATURE, NOTHING, concepts, args.seed) for concepts in parse_concepts(args.concepts)]
    world, cache = BenchWorld(), row_cache()
    pages = {picture_name(task): concept_page(world, cache, task, methods) for task in tasks}
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in pages.items():
        image.save(folder / name, optimize=True)
    (folder / f"{STEM}.md").write_text(page_text(tasks, methods))
    print(folder / f"{STEM}.md")


if __name__ == "__main__":
    main()
