import math

import pytest
import torch

from fmn_core.attention.zeroing import (
    attention_mass,
    attention_probabilities,
    merge_heads,
    split_heads,
    zero_columns,
    zeroed_attention,
)
from fmn_core.errors import ForgetError


def brute_force(q, k, heads):
    """Softmax attention by loops in float64."""
    b, n, width = q.shape
    d = width // heads
    out = torch.zeros(b, heads, n, k.shape[1], dtype=torch.float64)
    for i in range(b):
        for h in range(heads):
            for p in range(n):
                row = [
                    sum(float(q[i, p, h * d + c]) * float(k[i, t, h * d + c]) for c in range(d)) / math.sqrt(d)
                    for t in range(k.shape[1])
                ]
                total = sum(math.exp(r) for r in row)
                out[i, h, p] = torch.tensor([math.exp(r) / total for r in row])
    return out


@pytest.fixture
def qkv():
    g = torch.Generator().manual_seed(3)
    return torch.randn(2, 5, 12, generator=g), torch.randn(2, 7, 12, generator=g), torch.randn(2, 7, 12, generator=g)


def test_probabilities_equal_brute_force(qkv):
    q, k, _ = qkv
    torch.testing.assert_close(attention_probabilities(q, k, 3).double(), brute_force(q, k, 3), atol=1e-6, rtol=0)


def test_half_precision_inputs_are_computed_in_float32(qkv):
    q, k, _ = qkv
    assert attention_probabilities(q.half(), k.half(), 3).dtype == torch.float32


def test_zeroing_without_renormalisation_equals_zero_values(qkv):
    q, k, v = qkv
    probabilities = attention_probabilities(q.double(), k.double(), 3)
    weight = torch.zeros(2, 7, dtype=torch.float64)
    weight[0, [1, 4]], weight[1, 2] = 1.0, 0.25
    values = split_heads(v.double(), 3)
    scaled = values * (1 - weight)[:, None, :, None]
    torch.testing.assert_close(zero_columns(probabilities, weight) @ values, probabilities @ scaled, atol=1e-14, rtol=0)


def test_renormalised_zeroing_equals_attention_without_the_columns(qkv):
    q, k, _ = qkv
    kept = [0, 2, 3, 5, 6]
    weight = torch.zeros(7)
    weight[[1, 4]] = 1.0
    zeroed = zero_columns(attention_probabilities(q, k, 3), weight, renormalise=True)
    torch.testing.assert_close(zeroed[..., kept], attention_probabilities(q, k[:, kept], 3))
    assert zeroed[..., [1, 4]].abs().max() == 0


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_given_as_a_function_equals_brute_force(qkv, masked, renormalise):
    q, k, v = qkv
    weight = torch.zeros(2, 7)
    weight[0, [1, 4]], weight[1, 2] = 0.9, 0.25
    mask = torch.tensor([[0.0, 0.3, 1.0, 0.5, 1.0], [1.0, 0.0, 0.2, 0.7, 0.0]])
    probabilities = attention_probabilities(q, k, 3)
    out = zeroed_attention(
        lambda values: merge_heads(probabilities @ split_heads(values, 3)),
        v,
        weight,
        mask if masked else None,
        renormalise,
    )
    expected, a = torch.zeros(2, 5, 12, dtype=torch.float64), brute_force(q, k, 3)
    for b in range(2):
        for h in range(3):
            for r in range(5):
                row = a[b, h, r] * (1 - weight[b].double() * (mask[b, r].double() if masked else 1))
                row = row / row.sum() if renormalise else row
                expected[b, r, h * 4 : h * 4 + 4] = row @ v[b, :, h * 4 : h * 4 + 4].double()
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)


def test_masked_rows_keep_their_bits_and_what_is_affine_stays(qkv):
    q, k, v = qkv
    probabilities, weight = attention_probabilities(q, k, 3), torch.ones(2, 7)

    def attend(values):
        return merge_heads(probabilities @ split_heads(values, 3)) + q

    mask = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).expand(2, -1)
    out = zeroed_attention(attend, v, weight, mask)
    assert torch.equal(out[:, ::2], attend(v)[:, ::2])
    assert torch.equal(out[:, 1::2], q[:, 1::2])


def test_strength_zero_changes_nothing(qkv):
    q, k, _ = qkv
    probabilities = attention_probabilities(q, k, 3)
    assert torch.equal(zero_columns(probabilities, torch.zeros(7)), probabilities)


def test_mass_is_the_share_of_attention(qkv):
    q, k, _ = qkv
    probabilities = attention_probabilities(q, k, 3)
    assert attention_mass(probabilities) == pytest.approx(1.0, abs=1e-6)
    assert attention_mass(probabilities[..., [2]]) == pytest.approx(
        float(brute_force(q, k, 3)[..., 2].mean()), abs=1e-6
    )


def test_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ForgetError, match="divisible by 5 heads, got 12"):
        split_heads(torch.zeros(1, 2, 12), 5)
