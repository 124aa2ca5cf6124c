"""Cross-attention probabilities, and what it means to take a concept's columns out of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import ForgetError


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, n, heads * d) -> (B, heads, n, d)."""
    if x.shape[-1] % heads:
        raise ForgetError(f"Expected a width divisible by {heads} heads, got {x.shape[-1]}.")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(B, heads, n, d) -> (B, n, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attention_probabilities(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """A = softmax(Q K^T / sqrt(d)) in float32 or better.

    q: (B, n, heads * d) from the pixels, k: (B, l, heads * d) from the tokens. Returns (B, heads, n, l), rows sum to 1.
    """
    q, k = split_heads(q, heads), split_heads(k, heads)
    if q.dtype in (torch.float16, torch.bfloat16):
        q, k = q.float(), k.float()
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)


def zero_columns(probabilities: torch.Tensor, weight: torch.Tensor, renormalise: bool = False) -> torch.Tensor:
    """A[:, I] := (1 - s) A[:, I], FMN's zero attention (section 3.1 of the paper for s = 1).

    `weight`: (B, l) or (l,), the strength s of each column, 0 where the column is kept. Without renormalisation this
    equals scaling the values: A' V = A (diag(1 - s) V). With it, rows sum to one again.
    """
    kept = 1 - weight
    scaled = probabilities * (kept[:, None, None, :] if kept.ndim == 2 else kept)
    return scaled / scaled.sum(-1, keepdim=True).clamp_min(1e-12) if renormalise else scaled


def zeroed_attention(
    attend: Callable[[torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor | None = None,
    renormalise: bool = False,
) -> torch.Tensor:
    """Zero attention through any attention that is given as a function of its values: A[r, i] *= 1 - s_i m_r.

    `attend`: values (B, l, w) -> (B, n, w), linear in the values where `renormalise` is on, else at least affine.
    `weight`: (B, l), the strength s of each column. `rows`: (B, n), the mask m of each pixel in 0..1; None is 1.
    Since A' V = (1 - m) A V + m A (diag(1 - s) V), pixels where m = 0 keep their exact result. With `renormalise`
    every row sums to what it summed before; the sums are what `attend` makes of ones.
    """
    kept = (1 - weight)[..., None].to(values.dtype)

    def scaled(x: torch.Tensor, whole: torch.Tensor | None = None) -> torch.Tensor:
        out = attend(x * kept)
        if rows is None:
            return out
        return torch.lerp(attend(x) if whole is None else whole, out, rows[..., None].to(out.dtype))

    out = scaled(values)
    if not renormalise:
        return out
    ones = torch.ones_like(values)
    before = attend(ones)
    return out * (before / scaled(ones, before).clamp_min(1e-12))


def attention_mass(columns: torch.Tensor) -> torch.Tensor:
    """Mean share of attention that falls on a concept's columns (..., pixels, |I|), 0..1, a scalar."""
    return columns.sum(-1).mean()
