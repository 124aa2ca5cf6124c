"""Writes the README's tables from the results of the bench: python -m bench.readme_tables

Reads bench/results/correction.json, speed.json and concept_bench.sqlite; nothing in the tables is typed by hand.
"""

from __future__ import annotations

import json

from bench.concept_bench.report import found_in
from bench.results_page import RESULTS
from tools.comfy_host import REPOSITORY

README = REPOSITORY / "README.md"


def load(name: str) -> list[dict]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def kilobytes(size: float) -> str:
    return f"{size / 1000:,.0f} kB" if size else "none"


def correction_table() -> str:
    """The table of Concept Correction: a row for each word and guidance."""
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


def speed_table() -> str:
    """The table of costs by model, with the judge's figures on the miniature."""
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
    """The table of ConceptBench: every method, for one concept of each kind and for ten objects at once."""
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
        for r in found_in(RESULTS / "concept_bench.sqlite")["rows"]
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
    tables = {"correction": correction_table, "speed": speed_table, "peers": peers_table}
    for marker, make in tables.items():
        if f"<!-- {marker} -->" in text:
            text = put(text, marker, make())
    README.write_text(text)


if __name__ == "__main__":
    main()
