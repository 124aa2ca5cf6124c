"""What a solve for wide text costs, and what its smaller space changes: python -m bench.wide_text [--width 4096]

On random rows of a decaying spectrum, as many as a default solve for FLUX.1 has. Prints seconds for the space, the moments and the choice of
weights at that width; then, at 1024 columns, the share of the target missed and the drift in 512 directions and in the whole width.
"""

from __future__ import annotations

import argparse
import time

import torch

from fmn_core.closed_form import row_space
from fmn_core.closed_form.collect import SolveRows
from fmn_core.closed_form.weight_choice import choose_weights

PAIRS, ROWS_OF_A_PAIR, KEPT, ROWS_OF_A_PROMPT = 98, 25, 590, 17


def random_rows(width: int) -> SolveRows:
    """Rows whose singular values decay as 1 / sqrt(k), and whose ways to their targets are few directions."""
    g = torch.Generator().manual_seed(0)
    spectrum, ways = torch.arange(1, width + 1).pow(-0.5), torch.randn(8, width, generator=g)
    steered = []
    for n in range(PAIRS):
        source = torch.randn(ROWS_OF_A_PAIR, width, generator=g) * spectrum
        way = torch.randn(ROWS_OF_A_PAIR, 8, generator=g) @ ways * spectrum / 3
        steered.append(((n % 2,), source, source + way, torch.ones(ROWS_OF_A_PAIR)))
    ones = torch.ones(ROWS_OF_A_PROMPT)
    kept = [(n % 2, torch.randn(ROWS_OF_A_PROMPT, width, generator=g) * spectrum, ones) for n in range(KEPT)]
    return SolveRows(steered, kept)


def solve(rows: SolveRows, width: int) -> str:
    """Seconds and held-out figures of a solve."""
    started = time.perf_counter()
    basis = rows.space([])
    spaced = time.perf_counter()
    halves = rows.moments(basis=basis)
    summed = time.perf_counter()
    metric = torch.eye(len(halves[0].cc), dtype=torch.float64)
    _, _, figures = choose_weights(*halves, metric)
    seconds = (
        f"space {spaced - started:.1f} s, moments {summed - spaced:.1f} s, weights {time.perf_counter() - summed:.1f} s"
    )
    return f"{width} columns in {len(metric)} directions: {seconds}, missed {figures['held_out_missed']:.4f}, drift {figures['held_out_drift']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    width = parser.parse_args().width
    print(solve(random_rows(width), width), flush=True)
    rows = random_rows(1024)
    row_space.WIDEST, row_space.LEADING = 512, 512
    print(solve(rows, 1024), flush=True)
    row_space.WIDEST = 1024
    print(solve(rows, 1024), flush=True)


if __name__ == "__main__":
    main()
