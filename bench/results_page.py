"""Parts of every page in bench/results: the folder, Markdown tables, and the line on the machine."""

from __future__ import annotations

import platform

import torch

from tools.comfy_host import REPOSITORY

RESULTS = REPOSITORY / "bench" / "results"


def markdown_table(rows: list[dict], columns: tuple[str, ...]) -> str:
    """Rows as a Markdown table. Drift has four digits, a drop three, and other shares and seconds two."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    digits = {c: 4 if "drift" in c else (3 if "drop" in c else 2) for c in columns}
    for row in rows:
        cells = [f"{row[c]:.{digits[c]}f}" if isinstance(row[c], float) else str(row[c]) for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Processor, threads, torch and Python of this process, in one line."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, CPU, torch {torch.__version__}, Python {platform.python_version()}"
