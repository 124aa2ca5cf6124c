"""Tables of token embeddings, read where they are: of SDXL's 400 MB only what is asked for comes to the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Rows that are converted to float32 at once: 21 MB of SDXL's wider table.
_ROWS = 4096
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def by_rows(table: torch.Tensor, figure: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A figure of every row of a table (vocabulary, width), on the CPU.

    `figure` maps rows (n, width), float32 on the table's device, to (n, ...).
    """
    return torch.cat([figure(part.float()) for part in table.split(_ROWS)]).cpu()


def token_rows(table: torch.Tensor, ids: torch.Tensor | list[int]) -> torch.Tensor:
    """The embeddings (n, width) of some tokens, a float32 copy on the CPU."""
    chosen = torch.as_tensor(ids, dtype=torch.long).to(table.device)
    return table[chosen].to("cpu", torch.float32)


def trained_tokens(table: torch.Tensor) -> torch.Tensor:
    """Whether each token was trained (vocabulary,): rows of zeros never were."""
    return by_rows(table, lambda rows: rows.abs().amax(1) > 0)


def mean_norm(table: torch.Tensor) -> torch.Tensor:
    """The mean norm of the trained tokens' embeddings, a scalar."""
    norms = by_rows(table, lambda rows: rows.norm(dim=1))
    return norms[norms > 0].mean()


def mean_embedding(table: torch.Tensor) -> torch.Tensor:
    """The mean embedding (width,) of the trained tokens."""
    sums = torch.stack([part.float().sum(0) for part in table.split(_ROWS)]).sum(0).cpu()
    return sums / trained_tokens(table).sum()


def row_checksums(table: torch.Tensor) -> torch.Tensor:
    """The sum of the bits of every row (vocabulary,), int64: the same on any device, and another where a row changed."""
    bits = table.view(_BITS[table.element_size()])
    return torch.cat([part.sum(1, dtype=torch.int64) for part in bits.split(_ROWS)]).cpu()


def widths(tables: dict[str, torch.Tensor]) -> dict[str, int]:
    """The width of each text encoder's embeddings."""
    return {name: table.shape[1] for name, table in tables.items()}
