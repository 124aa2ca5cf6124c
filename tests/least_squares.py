"""Random matrices, and weighted least squares by another way than the code under test."""

import math

import torch


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stacked_least_squares(parts):
    """W' of min sum_i w_i |W' C_i - V_i|^2 over parts (w, C (n, dim), V (n, out)), by a QR of all rows."""
    rows = torch.cat([math.sqrt(w) * c for w, c, _ in parts])
    values = torch.cat([math.sqrt(w) * v for w, _, v in parts])
    return torch.linalg.lstsq(rows, values).solution.T
