"""Writes the tables of docs/results.md and docs/methods.md from the results of the bench: python -m bench.result_tables

Reads bench/results/correction.json, speed.json and concept_bench.sqlite. No figure in the tables is typed by hand.
"""

from __future__ import annotations

import json

from bench.concept_bench.report import read_results
from bench.results_page import RESULTS
from tools.comfy_host import REPOSITORY

PAGES = (REPOSITORY / "docs" / "results.md", REPOSITORY / "docs" / "methods.md")


def load_rows(name: str) -> list[dict]:
    """Rows of a result file in bench/results; none where there is no such file."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown table of texts."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def kilobytes(size: float) -> str:
    """Size in kB for a table; "none" for 0 bytes."""
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
        for r in load_rows("correction")
    ]
    return text_table(header, rows)


def speed_table() -> str:
    """The table of costs by model, with the judge's figures on the miniature."""
    header = ["model", "method", "concepts", "seconds", "peak MB", "still seen", "others lost", "file"]

    def rounded(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    rows = [
        [
            r["model"],
            r["method"],
            str(r["concepts"]),
            f"{r['seconds']:,.1f}{' (extrapolated)' if 'extrapolated' in r['note'] else ''}",
            f"{r['peak_mb']:,}",
            rounded(r["forget_after"], 2),
            rounded(r["keep_drop"], 3),
            kilobytes(r["patch_bytes"]),
        ]
        for r in load_rows("speed")
    ]
    return text_table(header, rows)


# Columns of shares in the table of ConceptBench; those that no row has are left out.
_SHARES = {
    "H_o": "H_o",
    "UA": "UA",
    "ua_contexts": "UA, other contexts",
    "residue_similarity": "residue",
    "IRA": "IRA",
    "CRA": "CRA",
    "attacked": "attacked",
}


def peers_table() -> str:
    """The table of ConceptBench: every method, for one concept of each kind and for ten objects at once."""
    measured = read_results(RESULTS / "concept_bench.sqlite")["rows"]
    shares = [name for name in _SHARES if any(r.get(name) is not None for r in measured)]
    header = ["forgotten", "method", *(_SHARES[name] for name in shares), "drift", "seconds", "file"]

    def rounded(row: dict, name: str, digits: int = 2) -> str:
        return "" if row.get(name) is None else f"{row[name]:.{digits}f}"

    rows = [
        [
            f"{r['concepts']} {r['kind']}s at once" if r["concepts"] > 1 else r["kind"],
            r["method"],
            *(rounded(r, name) for name in shares),
            rounded(r, "drift", 4),
            rounded(r, "cpu_seconds", 1),
            kilobytes(r["artefact_bytes"]),
        ]
        for r in measured
        if r["method"] != "nothing forgotten"
    ]
    return text_table(header, rows)


def replace_table(text: str, marker: str, content: str) -> str:
    """Replaces the table between two markers, and keeps a sentence before it."""
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, _, rest = text.partition(start)
    inside, _, after = rest.partition(end)
    sentence = inside.split("|", 1)[0].strip()
    return f"{before}{start}{sentence + chr(10) * 2 if sentence else ''}{content}\n{end}{after}"


def main() -> None:
    tables = {"correction": correction_table, "speed": speed_table, "peers": peers_table}
    for page in PAGES:
        text = page.read_text()
        for marker, make in tables.items():
            if f"<!-- {marker} -->" in text:
                text = replace_table(text, marker, make())
        page.write_text(text)


if __name__ == "__main__":
    main()
