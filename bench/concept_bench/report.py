"""Tables and a plot of a ConceptBench database: python -m bench.concept_bench.report DATABASE [--model LABEL] [--ask ASK] [--json FILE]

A page has one model and one ask; --model and --ask choose where the database holds several ("full" of the miniature is
the default). Writes bench/results/concept_bench.md and .png, for a checkpoint concept_bench-LABEL.md and .png; with
--json FILE it writes that file only, and the tables go to the terminal. Rows: method, kind, concepts (number at once),
H_o, UA, ua_contexts, residue_probability, residue_similarity, IRA, CRA, attacked, drift, seconds, artefact_bytes and
other figures, means with `_low` and `_high` (95 %); cells that were measured before a figure existed do not count in it.
`results` holds every cell as it was measured, with seed, command, version, commit and machine.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from bench.concept_bench.concepts import GROUPS, MINIATURE, MINIATURE_FLUX
from bench.concept_bench.plot import plot_seconds
from bench.concept_bench.store import Store
from bench.concept_bench.summary import LEADING_COLUMNS, concept_rows, summaries
from bench.results_page import RESULTS

FULL = "full"
BASE_COLUMNS = (*LEADING_COLUMNS, "generality", "neighbours", "context_kept")
SCORE_COLUMNS = (
    "clip_target_before", "clip_target_after", "clip_others_before", "clip_others_after", "attacked_base", "m_score_before", "m_score_after",
    "fid", "kid", "cmmd", "cpu_seconds", "peak_mb",
)  # fmt: skip
_ORIGIN = ("command", "pack_version", "git_commit", "machine")
# A label may hold characters, such as spaces, that a link of the page must not.
_NOT_IN_NAMES = re.compile(r"[^\w.-]")
_DIGITS = {"drift": 4, "kid": 4, "cmmd": 4, "peak_mb": 0, "seconds": 1, "cpu_seconds": 1}


def read_results(database: Path, ask: str | None = FULL, model: str | None = MINIATURE) -> dict[str, Any]:
    """Summary rows, single results and failures of one model and one ask.

    Parameters
    ----------
    ask, model
        None: the only one in the database.

    Raises
    ------
    FileNotFoundError
        Where there is no database.
    ValueError
        Where the database has no complete result, or several models or asks to choose from.
    """
    if not database.is_file():
        raise FileNotFoundError(
            f"Expected a database in {database}, found none. Run python -m bench.concept_bench.run first."
        )
    with Store(database, read_only=True) as store:
        results, failures = store.results(), store.failures()
    model = _choose("model", model, results)
    results = [r for r in results if r["model"] == model]
    ask = _choose("ask", ask, results, FULL)
    results = [r for r in results if r["ask"] == ask]
    failures = [f for f in failures if f["key"].startswith(f"{model}/{ask}/")]
    if not results:
        raise ValueError(f"Expected complete results of {model!r}, asked {ask!r}, in {database}, found none.")
    rows = sorted(summaries(results), key=lambda r: (GROUPS.index(r["kind"]), r["concepts"], -r["H_o"]))
    return {"rows": rows, "results": results, "failures": failures}


def _choose(name: str, value: str | None, results: list[dict[str, Any]], preferred: str = "") -> str:
    """The given model or ask, else the preferred one, else the only one among the results."""
    available = sorted({r[name] for r in results})
    if value is not None or not available:
        return value or "any"
    if preferred not in available and len(available) > 1:
        raise ValueError(f"Expected --{name}, since the database holds several: {'; '.join(available)}.")
    return preferred if preferred in available else available[0]


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Markdown table with a row for each method and an interval after each mean, without columns that no row has."""
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


def tables(report: dict[str, Any]) -> str:
    """All tables of a report (read_results) as Markdown."""
    parts = []
    for kind, count in dict.fromkeys((r["kind"], r["concepts"]) for r in report["rows"]):
        rows = [r for r in report["rows"] if (r["kind"], r["concepts"]) == (kind, count)]
        parts.append(
            f"## {kind}, {'one concept' if count == 1 else f'{count} concepts'} at once\n\n{table(rows, BASE_COLUMNS)}"
        )
        parts.append(table(rows, SCORE_COLUMNS))
    if any(len(r["concepts"]) == 1 for r in report["results"]):
        parts.append("## H_o of every concept\n\n" + _by_concept(report["results"]))
    if report["failures"]:
        parts.append(
            "## Failed\n\n"
            + "\n".join(f"- {f['key']} ({f['times']} times): {_last_line(f['error'])}" for f in report["failures"])
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


_MINIATURE = """Euler, 8 steps, guidance 3; shares are those of pictures
in which the judge, trained on artwork alone, sees what was asked."""
_FLUX = """Euler, {steps} steps, guidance {guidance:g}; prompts name no
ground. Shares are those of pictures in which the judge of scenes, trained on artwork alone, sees what was asked; nothing was attacked."""
_CHECKPOINT = """Euler, {steps} steps, guidance {guidance:g}, {size} px, on {checkpoint}
(SHA-256 {sha256}); shares are those of pictures for which the judge, the CLIP {judge}, finds what was asked the nearest of its labels: the concept, its neighbours
and the other names of its group; of styles also a photograph. IRA counts neighbours too; CRA, of styles, is the share in which it finds the subject. Peers have
their published settings; nothing was attacked."""


def _conditions(report: dict[str, Any]) -> str:
    """Sentence on how pictures were drawn and judged."""
    setting = report["results"][0]["figures"].get("setting")
    if setting is None:
        return _MINIATURE
    return (_FLUX if report["results"][0]["model"] == MINIATURE_FLUX else _CHECKPOINT).format(**setting)


def page(report: dict[str, Any]) -> str:
    """Text of the results page."""
    model = report["results"][0]["model"]
    seeds = sorted({r["seed"] for r in report["results"]})
    return f"""# ConceptBench on {"the miniature" if model == MINIATURE else model}

{len(report["results"])} cells, seeds {", ".join(map(str, seeds))} (training seed n, evaluation seeds from 70000 + 1000 n); the commands are at the end. {_conditions(report)} In brackets
95 % bootstrap intervals over cells (concept and seed).

UA: target not seen. {_held_out(report)}IRA, CRA: others of the same kind, and of the other kind, right. H_o: harmonic mean of erasure, specificity (IRA) and generality, of the
mean accuracies. generality: still seen under synonyms, of a style in other words. neighbours: look-alikes right. context_kept: style (of a style: object) of the target's pictures right. attacked:
still seen under an embedding searched on the patched model; of several concepts two are attacked. drift: mean squared error of pictures of what was
not forgotten. seconds, peak_mb: of forgetting, the model included in memory. artefact_bytes: what a user would share. cpu_seconds: processor time of it.
The row "nothing forgotten" is the model itself.

{tables(report)}

![H_o against seconds]({_stem(report)}.png)

## Made by

{_made_by(report["results"])}
"""


_COLUMNS_OF_RESIDUE = """ua_contexts: not seen in prompts of forms that neither the table nor the pack has, such as "look
at a cat" and "a small noto picture with a cat in it". residue_probability: the judge's mean probability of the concept in the target's pictures, where its first
choice alone may hide a likeness. residue_similarity: how much more similar they are to the untouched model's pictures of the same prompt and seed
(1) than its pictures without the concept's words are (0), in the judge's features. """
_STYLES_HELD_OUT = "No template of the pack names a style of the miniature, so these are held-out styles. "
_STYLES_NAMED = "Templates of the pack name some of the miniature's styles, so these are not held-out styles. "


def _held_out(report: dict[str, Any]) -> str:
    """Sentences on held-out styles and contexts and on residue; empty where no cell has these figures."""
    counts = {r["figures"]["styles_in_templates"] for r in report["results"] if "styles_in_templates" in r["figures"]}
    if not counts:
        return ""
    return (_STYLES_NAMED if any(counts) else _STYLES_HELD_OUT) + _COLUMNS_OF_RESIDUE


def _made_by(results: list[dict[str, Any]]) -> str:
    """One line for each command and commit, in the order of their first cells, with the machine."""
    lines = []
    ordered = sorted(results, key=lambda r: r["made_at"])
    for key in dict.fromkeys(tuple(r[c] for c in _ORIGIN) for r in ordered):
        days = [r["made_at"][:10] for r in ordered if tuple(r[c] for c in _ORIGIN) == key]
        command, version, commit, machine = key
        lines.append(f"- {len(days)} cells, from {days[0]}: `{command}`; version {version}, {commit}; {machine}")
    return "\n".join(lines)


def _stem(report: dict[str, Any]) -> str:
    """Name of the page and plot of a model, without ending."""
    model = report["results"][0]["model"]
    return "concept_bench" if model == MINIATURE else f"concept_bench-{_NOT_IN_NAMES.sub('_', model)}"


def write_page(report: dict[str, Any], folder: Path = RESULTS) -> None:
    """Writes the page and its plot; the figures stay in the database."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_stem(report)}.md").write_text(page(report))
    plot_seconds(report["rows"], folder / f"{_stem(report)}.png")


def write_json(report: dict[str, Any], path: Path) -> None:
    """Writes a report (read_results) to a JSON file."""
    path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path)
    parser.add_argument("--model", help="miniature, or a checkpoint's name without its ending")
    parser.add_argument("--ask", help="full or quick; of a checkpoint what its keys say")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = read_results(args.database, args.ask, args.model)
    print(tables(report))
    if args.json:
        write_json(report, args.json)
    else:
        write_page(report)


if __name__ == "__main__":
    main()
