"""Figures of a table of token embeddings, against the plain formulas on a float32 copy of all of it."""

import pytest
import torch

from fmn_core.model.token_table import (
    by_rows,
    mean_embedding,
    mean_norm,
    row_checksums,
    token_rows,
    trained_tokens,
    widths,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


@pytest.fixture
def table() -> torch.Tensor:
    """More rows than are converted at once; every fifth was never trained."""
    made = torch.randn(9000, 8, generator=torch.Generator().manual_seed(0)) * 0.02
    made[::5] = 0
    return made


@DTYPES
def test_figures_are_those_of_the_trained_rows(table, dtype):
    table = table.to(dtype)
    plain = table.float()
    used = plain[plain.abs().sum(1) > 0]
    assert torch.equal(trained_tokens(table), plain.abs().sum(1) > 0)
    assert torch.equal(mean_norm(table), used.norm(dim=1).mean())
    torch.testing.assert_close(mean_embedding(table), used.mean(0), atol=1e-7, rtol=1e-5)
    direction = torch.ones(8)
    torch.testing.assert_close(by_rows(table, lambda rows: rows @ direction), plain @ direction, atol=1e-6, rtol=1e-5)


@DTYPES
def test_rows_are_float32_copies(table, dtype):
    table = table.to(dtype)
    rows = token_rows(table, [3, 8999, 3])
    assert torch.equal(rows, table.float()[[3, 8999, 3]])
    rows += 1
    assert torch.equal(token_rows(table, torch.tensor([3])), table.float()[[3]])


@DTYPES
def test_a_checksum_changes_with_its_row_alone(table, dtype):
    table = table.to(dtype)
    before = row_checksums(table)
    changed = table.clone()
    changed[4321, 2] *= 1.01
    changed[0, 0] = -0.0
    assert (row_checksums(changed) != before).nonzero().flatten().tolist() == [0, 4321]


def test_rows_of_a_table_made_in_inference_mode_are_fit_for_autograd():
    with torch.inference_mode():
        table = torch.randn(5, 3)
    vectors = token_rows(table, [1, 2]).requires_grad_()
    (vectors**2).sum().backward()
    assert vectors.grad is not None and not mean_norm(table).is_inference()
    assert widths({"l": table}) == {"l": 3}
