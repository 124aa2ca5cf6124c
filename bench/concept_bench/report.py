"""Tables and a plot of a ConceptBench database: python -m bench.concept_bench.report DATABASE [--ask full] [--json FILE]

Writes bench/results/concept_bench.md, .png and .json; with --json FILE only that file, and the tables go to the terminal. Rows: method, kind, concepts (how many
at once), H_o, UA, IRA, CRA, attacked, drift, seconds, artefact_bytes and the rest, means with `_low` and `_high` (95 %); `results` holds every cell as it
was measured, with seed, command, version, commit and machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.concept_bench.concepts import GROUPS
from bench.concept_bench.plot import plot_seconds
from bench.concept_bench.store import Store
from bench.concept_bench.summary import FIRST, concept_rows, summaries
from bench.forget import RESULTS

BASE_COLUMNS = (*FIRST, "generality", "neighbours", "context_kept", "peak_mb")
SCORE_COLUMNS = (
    "clip_target_before", "clip_target_after", "clip_others_before", "clip_others_after", "attacked_base", "m_score_before", "m_score_after",
    "fid", "kid", "cmmd", "cpu_seconds",
)  # fmt: skip
_DIGITS = {"drift": 4, "kid": 4, "cmmd": 4, "peak_mb": 0, "seconds": 1, "cpu_seconds": 1}


def found_in(database: Path, ask: str = "full") -> dict[str, Any]:
    """Rows, single results and failures of a database. Raises FileNotFoundError where there is none, ValueError where it has no complete result."""
    if not database.is_file():
        raise FileNotFoundError(
            f"Expected a database in {database}, found none. Run python -m bench.concept_bench.run first."
        )
    with Store(database) as store:
        results, failures = [r for r in store.results() if r["ask"] == ask], store.failures()
    failures = [f for f in failures if f"/{ask}/" in f["key"]]
    if not results:
        raise ValueError(f"Expected complete results of the ask {ask!r} in {database}, found none.")
    rows = sorted(summaries(results), key=lambda r: (GROUPS.index(r["kind"]), r["concepts"], -r["H_o"]))
    return {"rows": rows, "results": results, "failures": failures}


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """A row for each method; "low to high" under each mean, and columns that no row has are left out."""
    shown = [c for c in columns if any(r.get(c) is not None for r in rows)]
    lines = ["| method | " + " | ".join(shown) + " | cells |", "|" + "---|" * (len(shown) + 2)]
    for row in rows:
        lines.append("| " + " | ".join([row["method"], *(_cell(row, c) for c in shown), str(row["cells"])]) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], column: str) -> str:
    if row.get(column) is None:
        return ""
    if column == "artefact_bytes":
        return f"{row[column] / 1000:,.0f} kB"
    digits = _DIGITS.get(column, 2)
    value, low, high = (f"{row[c]:.{digits}f}" for c in (column, f"{column}_low", f"{column}_high"))
    return value if low == high else f"{value} ({low}-{high})"


def tables(found: dict[str, Any]) -> str:
    """All tables as Markdown."""
    parts = []
    for kind, count in dict.fromkeys((r["kind"], r["concepts"]) for r in found["rows"]):
        rows = [r for r in found["rows"] if (r["kind"], r["concepts"]) == (kind, count)]
        parts.append(
            f"## {kind}, {'one concept' if count == 1 else f'{count} concepts'} at once\n\n{table(rows, BASE_COLUMNS)}"
        )
        parts.append(table(rows, SCORE_COLUMNS))
    if any(len(r["concepts"]) == 1 for r in found["results"]):
        parts.append("## H_o of every concept\n\n" + _by_concept(found["results"]))
    if found["failures"]:
        parts.append(
            "## Failed\n\n"
            + "\n".join(f"- {f['key']} ({f['times']} times): {_last_line(f['error'])}" for f in found["failures"])
        )
    return "\n\n".join(parts)


def _by_concept(results: list[dict[str, Any]]) -> str:
    rows = concept_rows([r for r in results if len(r["concepts"]) == 1])
    methods, names = list(dict.fromkeys(r["method"] for r in rows)), list(dict.fromkeys(r["concepts"] for r in rows))
    value = {(r["concepts"], r["method"]): f"{r['H_o']:.2f}" for r in rows}
    lines = ["| concept | " + " | ".join(methods) + " |", "|" + "---|" * (len(methods) + 1)]
    return "\n".join(
        [*lines, *(f"| {n} | " + " | ".join(value.get((n, m), "") for m in methods) + " |" for n in names)]
    )


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1]


def page(found: dict[str, Any]) -> str:
    """The results page."""
    about = {
        c: sorted({r[c] for r in found["results"]})
        for c in ("command", "pack_version", "git_commit", "machine", "made_at")
    }
    seeds = sorted({r["seed"] for r in found["results"]})
    return f"""# ConceptBench on the miniature

Made by {"; ".join(f"`{c}`" for c in about["command"])}, {about["made_at"][0][:10]} to {about["made_at"][-1][:10]}, on {"; ".join(about["machine"])}; version {", ".join(about["pack_version"])}, commit
{", ".join(about["git_commit"])}; seeds {", ".join(map(str, seeds))} (training seed n, evaluation seeds from 70000 + 1000 n). Euler, 8 steps, guidance 3; shares are those of pictures
in which the judge, trained on artwork alone, sees what was asked. In brackets 95 % bootstrap intervals over cells (concept and seed).

UA: target not seen. IRA, CRA: others of the same kind, and of the other kind, right. H_o: harmonic mean of erasure, specificity (IRA) and generality, of the
mean accuracies. generality: still seen under synonyms, of a style in other words. neighbours: look-alikes right. context_kept: style (of a style: object) of the target's pictures right. attacked:
still seen under an embedding searched on the patched model; of several concepts two are attacked. drift: mean squared error of pictures of what was
not forgotten. seconds, peak_mb: of forgetting, the model included in memory. artefact_bytes: what a user would share. cpu_seconds: processor time of it.
The row "nothing forgotten" is the model itself.

{tables(found)}

![H_o against seconds](concept_bench.png)
"""


def write(found: dict[str, Any], folder: Path = RESULTS) -> None:
    """The page, its plot and its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "concept_bench.md").write_text(page(found))
    write_json(found, folder / "concept_bench.json")
    plot_seconds(found["rows"], folder / "concept_bench.png")


def write_json(found: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path)
    parser.add_argument("--ask", default="full", help="full or quick")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = found_in(args.database, args.ask)
    print(tables(found))
    if args.json:
        write_json(found, args.json)
    else:
        write(found)


if __name__ == "__main__":
    main()
