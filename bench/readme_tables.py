"""Writes the README's tables from the results of the bench: python -m bench.readme_tables

Reads bench/results/forget.json and correction.json; nothing in the tables is typed by hand.
"""

from __future__ import annotations

import json

from bench.forget import RESULTS
from mini_sd.comfy_host import REPOSITORY

README = REPOSITORY / "README.md"


def load(name: str) -> list[dict]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def mean_worst(values: list[float], digits: int = 2) -> str:
    return f"{sum(values) / len(values):.{digits}f} ({max(values):.{digits}f})"


def forget_table() -> str:
    """Mean and worst over the concepts, a row for each method."""
    rows = load("forget")
    lines = []
    for method in dict.fromkeys(r["method"] for r in rows):
        of = [r for r in rows if r["method"] == method]
        column = {k: [r[k] for r in of] for k in of[0]}
        style = column["style_after"]
        size = sum(column["patch_bytes"]) / len(of) / 1000
        lines.append(
            [
                method,
                mean_worst(column["forget_after"]),
                mean_worst(column["synonym_after"]),
                mean_worst(column["keep_drop"], 3),
                f"{sum(style) / len(style):.2f} ({min(style):.2f})",
                f"{sum(column['drift']) / len(of):.4f}",
                f"{sum(column['seconds']) / len(of):.1f}",
                f"{size:,.0f} kB" if size else "none",
            ]
        )
    return table(
        [
            "method",
            "concept still seen",
            "synonym still seen",
            "others lost",
            "style kept",
            "drift",
            "seconds",
            "patch",
        ],
        lines,
    )


def correction_table() -> str:
    """Every corrected word."""
    header = ["word", "dominant meaning", "other meaning", "others lost", "dominant meaning by its own name"]
    rows = [
        [
            f'"{r["word"]}"',
            f"{r['dominant_before']:.2f} -> {r['dominant_after']:.2f}",
            f"{r['other_before']:.2f} -> {r['other_after']:.2f}",
            f"{r['keep_drop']:.3f}",
            f"{r['named_after']:.2f}",
        ]
        for r in load("correction")
    ]
    return table(header, rows)


def put(text: str, marker: str, content: str) -> str:
    """Puts a table between its markers, after the sentence that may stand before it."""
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, _, rest = text.partition(start)
    inside, _, after = rest.partition(end)
    sentence = inside.split("|", 1)[0].strip()
    return f"{before}{start}{sentence + chr(10) * 2 if sentence else ''}{content}\n{end}{after}"


def main() -> None:
    text = README.read_text()
    for marker, content in (
        ("results", forget_table()),
        ("correction", correction_table()),
    ):
        text = put(text, marker, content)
    README.write_text(text)


if __name__ == "__main__":
    main()
