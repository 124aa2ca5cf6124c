"""What every page in bench/results is made with: its folder, Markdown tables, and the line on the machine."""

from __future__ import annotations

import platform

import torch

from tools.comfy_host import REPOSITORY

RESULTS = REPOSITORY / "bench" / "results"


def markdown_table(rows: list[dict], columns: tuple[str, ...]) -> str:
    """Rows as a table; drift with four digits, what is lost with three, other shares and seconds with two."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    digits = {c: 4 if "drift" in c else (3 if "drop" in c else 2) for c in columns}
    for row in rows:
        cells = [f"{row[c]:.{digits[c]}f}" if isinstance(row[c], float) else str(row[c]) for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """The processor, threads, torch and Python that figures were measured with, as one line."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, CPU, torch {torch.__version__}, Python {platform.python_version()}"
