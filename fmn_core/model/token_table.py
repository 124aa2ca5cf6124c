"""Reading tables of token embeddings on their own device, because SDXL's take 400 MB: only results come to the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Rows converted to float32 at a time: 21 MB of SDXL's wider table.
_ROWS = 4096
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def by_rows(table: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Applies a function to all rows of a table, block by block.

    Parameters
    ----------
    table
        Token embeddings (vocabulary, width).
    function
        Maps rows (n, width), in float32 on the table's device, to (n, ...).

    Returns
    -------
    The function's results (vocabulary, ...) on the CPU.
    """
    return torch.cat([function(rows.float()) for rows in table.split(_ROWS)]).cpu()


def token_rows(table: torch.Tensor, ids: torch.Tensor | list[int]) -> torch.Tensor:
    """Copies the embeddings (n, width) of some tokens to the CPU, in float32."""
    indices = torch.as_tensor(ids, dtype=torch.long).to(table.device)
    return table[indices].to("cpu", torch.float32)


def trained_tokens(table: torch.Tensor) -> torch.Tensor:
    """Boolean mask (vocabulary,) of the trained tokens: the rows that are not all zero."""
    return by_rows(table, lambda rows: rows.abs().amax(1) > 0)


def mean_norm(table: torch.Tensor) -> torch.Tensor:
    """Mean norm of the trained tokens' embeddings, a scalar."""
    norms = by_rows(table, lambda rows: rows.norm(dim=1))
    return norms[norms > 0].mean()


def mean_embedding(table: torch.Tensor) -> torch.Tensor:
    """Mean embedding (width,) of the trained tokens."""
    total = torch.stack([rows.float().sum(0) for rows in table.split(_ROWS)]).sum(0).cpu()
    return total / trained_tokens(table).sum()


def row_checksums(table: torch.Tensor) -> torch.Tensor:
    """Checksum of every row (vocabulary,), int64: the sum of its numbers' bits, read as integers. It is the same on every device."""
    bits = table.view(_BITS[table.element_size()])
    return torch.cat([rows.sum(1, dtype=torch.int64) for rows in bits.split(_ROWS)]).cpu()


def widths(tables: dict[str, torch.Tensor]) -> dict[str, int]:
    """Width of the token embeddings of each text encoder."""
    return {name: table.shape[1] for name, table in tables.items()}
