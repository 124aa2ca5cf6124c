"""Plots H_o against the seconds of forgetting, one panel for each group of concepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Colour and marker both tell methods apart.
MARKERS = "osD^vP*X<>hp"


def plot_seconds(rows: list[dict[str, Any]], path: Path) -> None:
    """Plots rows of summary.summaries with the intervals of H_o, without methods that take no time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((r["kind"], r["concepts"]) for r in rows))
    methods = [
        m for m in dict.fromkeys(r["method"] for r in rows) if any(_takes_time(r) for r in rows if r["method"] == m)
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), 4.6), sharey=True, squeeze=False)
    for axis, (kind, concepts) in zip(axes[0], panels):
        for row in (r for r in rows if (r["kind"], r["concepts"]) == (kind, concepts) and _takes_time(r)):
            _point(axis, row, methods.index(row["method"]))
        axis.set(title=f"{kind}, {concepts} at once", xlabel="seconds", ylim=(-0.03, 1.03), xscale="log")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("H_o")
    handles = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=min(4, max(1, len(handles))), frameon=False
    )
    figure.tight_layout(rect=(0, 0.05 + 0.05 * -(-len(handles) // 4), 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _takes_time(row: dict[str, Any]) -> bool:
    return row["seconds"] > 1e-3


def _point(axis: Any, row: dict[str, Any], number: int) -> None:
    spread = [[max(0.0, row["H_o"] - row["H_o_low"])], [max(0.0, row["H_o_high"] - row["H_o"])]]
    look = {"fmt": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}", "capsize": 2}
    axis.errorbar([row["seconds"]], [row["H_o"]], yerr=spread, label=row["method"], **look)
