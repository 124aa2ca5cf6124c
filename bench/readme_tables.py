"""Writes the README's tables from the results of the bench: python -m bench.readme_tables

Reads bench/results/forget.json, correction.json, method.json, patches.json, speed.json and concept_bench.json; nothing in the tables is typed by hand.
"""

from __future__ import annotations

import json

from bench.results_page import RESULTS
from tools.comfy_host import REPOSITORY

README = REPOSITORY / "README.md"


def load(name: str) -> list[dict]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def mean_worst(values: list[float], digits: int = 2) -> str:
    return f"{sum(values) / len(values):.{digits}f} ({max(values):.{digits}f})"


def kilobytes(size: float) -> str:
    return f"{size / 1000:,.0f} kB" if size else "none"


def forget_table() -> str:
    """Mean and worst over the concepts, a row for each method."""
    rows = load("forget")
    lines = []
    for method in dict.fromkeys(r["method"] for r in rows):
        of = [r for r in rows if r["method"] == method]
        column = {k: [r[k] for r in of] for k in of[0]}
        style = column["style_after"]
        lines.append(
            [
                method,
                mean_worst(column["forget_after"]),
                mean_worst(column["synonym_after"]),
                mean_worst(column["keep_drop"], 3),
                f"{sum(style) / len(style):.2f} ({min(style):.2f})",
                f"{sum(column['drift']) / len(of):.4f}",
                f"{sum(column['seconds']) / len(of):.1f}",
                kilobytes(sum(column["patch_bytes"]) / len(of)),
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
    header = [
        "word",
        "guidance",
        "dominant meaning",
        "other meaning",
        "others lost",
        "dominant meaning by its own name",
    ]
    rows = [
        [
            f'"{r["word"]}"',
            f"{r['guidance']:g}",
            f"{r['dominant_before']:.2f} -> {r['dominant_after']:.2f}",
            f"{r['other_before']:.2f} -> {r['other_after']:.2f}",
            f"{r['keep_drop']:.3f}",
            f"{r['named_after']:.2f}",
        ]
        for r in load("correction")
    ]
    return table(header, rows)


def several_table() -> str:
    """One, five and ten concepts in one go, a row for each method and number."""
    header = ["method", "concepts", "still seen", "others lost", "style kept", "drift", "seconds", "patch"]
    rows = [
        [
            r["method"],
            r["concepts"] if r["concepts"].isdigit() else "1",
            f"{r['forget_after']:.2f}",
            f"{r['keep_drop']:.3f}",
            f"{r['style_after']:.2f}",
            f"{r['drift']:.4f}",
            f"{r['seconds']:.1f}",
            kilobytes(r["patch_bytes"]),
        ]
        for r in load("method")
        if r["part"] == "several"
    ]
    return table(header, rows)


def patches_table() -> str:
    """What merging costs, by number of patches; the gate."""
    header = ["case", "patches", "still seen", "others lost", "drift", "seconds", "file"]
    rows = [
        [
            r["case"],
            str(r["patches"]),
            *(f"{r[k]:.{d}f}" if r[k] != "" else "" for k, d in (("forget_after", 2), ("keep_drop", 3), ("drift", 4))),
            "" if r["case"].startswith("gate") else f"{r['seconds']:.1f}",
            kilobytes(r["bytes"]),
        ]
        for r in load("patches")
        if not r["case"].startswith("strength")
    ]
    return table(header, rows)


def speed_table() -> str:
    """Seconds, memory and size by model; what the judge saw on the miniature."""
    header = ["model", "method", "concepts", "seconds", "peak MB", "still seen", "others lost", "file"]

    def shown(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    rows = [
        [
            r["model"],
            r["method"],
            str(r["concepts"]),
            f"{r['seconds']:,.1f}{' (extrapolated)' if 'extrapolated' in r['note'] else ''}",
            f"{r['peak_mb']:,}",
            shown(r["forget_after"], 2),
            shown(r["keep_drop"], 3),
            kilobytes(r["patch_bytes"]),
        ]
        for r in load("speed")
    ]
    return table(header, rows)


def peers_table() -> str:
    """Every method of ConceptBench: one concept of each kind, and ten objects at once."""
    header = ["forgotten", "method", "H_o", "UA", "IRA", "CRA", "attacked", "drift", "seconds", "file"]

    def shown(row: dict, name: str, digits: int = 2) -> str:
        return "" if row.get(name) is None else f"{row[name]:.{digits}f}"

    rows = [
        [
            f"{r['concepts']} {r['kind']}s at once" if r["concepts"] > 1 else r["kind"],
            r["method"],
            *(shown(r, name) for name in ("H_o", "UA", "IRA", "CRA", "attacked")),
            shown(r, "drift", 4),
            shown(r, "cpu_seconds", 1),
            kilobytes(r["artefact_bytes"]),
        ]
        for r in load("concept_bench")
        if r["method"] != "nothing forgotten"
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
    made = {
        "results": forget_table,
        "correction": correction_table,
        "several": several_table,
        "patches": patches_table,
        "speed": speed_table,
        "peers": peers_table,
    }
    for marker, make in made.items():
        if f"<!-- {marker} -->" in text:
            text = put(text, marker, make())
    README.write_text(text)


if __name__ == "__main__":
    main()
