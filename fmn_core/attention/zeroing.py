"""Cross-attention probabilities and zero attention: a concept's columns are scaled down to nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import ForgetError


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Splits (B, n, heads * d) into heads, (B, heads, n, d); raises ForgetError when the width is not divisible."""
    if x.shape[-1] % heads:
        raise ForgetError(f"Expected a width divisible by {heads} heads, got {x.shape[-1]}.")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """Joins the heads of (B, heads, n, d) to (B, n, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attention_probabilities(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention probabilities A = softmax(Q K^T / sqrt(d)), in float32 or better.

    Parameters
    ----------
    q
        Queries of the pixels, (B, n, heads * d).
    k
        Keys of the tokens, (B, l, heads * d).

    Returns
    -------
    A, (B, heads, n, l). Each row sums to 1.
    """
    q, k = split_heads(q, heads), split_heads(k, heads)
    if q.dtype in (torch.float16, torch.bfloat16):
        q, k = q.float(), k.float()
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)


def zero_columns(probabilities: torch.Tensor, weight: torch.Tensor, renormalise: bool = False) -> torch.Tensor:
    """Zero attention on probabilities: A[:, I] := (1 - s) A[:, I].

    Parameters
    ----------
    weight
        Strength s of each column, (B, l) or (l,); 0 keeps the column.
    renormalise
        Whether rows sum to one again.

    Notes
    -----
    Without renormalisation this equals scaling the values: A' V = A (diag(1 - s) V). Source: section 3.1 of FMN, for s = 1.
    """
    factors = 1 - weight
    scaled = probabilities * (factors[:, None, None, :] if factors.ndim == 2 else factors)
    return scaled / scaled.sum(-1, keepdim=True).clamp_min(1e-12) if renormalise else scaled


def zeroed_attention(
    attend: Callable[[torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor | None = None,
    renormalise: bool = False,
) -> torch.Tensor:
    """Zero attention for any attention that is given as a function of its values: A[r, i] *= 1 - s_i m_r.

    Parameters
    ----------
    attend
        Values (B, l, w) -> (B, n, w); linear in the values with `renormalise`, else at least affine.
    weight
        Strength s of each column, (B, l).
    rows
        Mask m of the pixels in 0..1, (B, n); None acts on all of them.
    renormalise
        Whether every row keeps its sum; the sums are the attention of ones.

    Notes
    -----
    Since A' V = (1 - m) A V + m A (diag(1 - s) V), pixels with m = 0 keep their exact result.
    """
    factors = (1 - weight)[..., None].to(values.dtype)

    def scaled_attention(x: torch.Tensor, unscaled: torch.Tensor | None = None) -> torch.Tensor:
        scaled = attend(x * factors)
        if rows is None:
            return scaled
        return torch.lerp(attend(x) if unscaled is None else unscaled, scaled, rows[..., None].to(scaled.dtype))

    output = scaled_attention(values)
    if not renormalise:
        return output
    ones = torch.ones_like(values)
    sums = attend(ones)
    return output * (sums / scaled_attention(ones, sums).clamp_min(1e-12))


def attention_mass(columns: torch.Tensor) -> torch.Tensor:
    """Mean share of attention on a concept's columns (..., pixels, |I|): a scalar in 0..1."""
    return columns.sum(-1).mean()
