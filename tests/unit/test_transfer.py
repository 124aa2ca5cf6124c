"""What crosses between the CPU and a device: values read together, tensors sent together."""

import torch

from fmn_core.model.lazy import LazySequence
from fmn_core.model.transfer import read, send


def test_values_are_read_in_their_order():
    scalars = [torch.tensor(v) for v in (1.5, -2.0, float("inf"))]
    assert read(scalars) == [1.5, -2.0, float("inf")]
    assert read([]) == []


def test_sent_tensors_keep_values_and_shapes():
    g = torch.Generator().manual_seed(0)
    x, sigma, columns = torch.randn(1, 4, 3, 3, generator=g), torch.tensor([0.5]), torch.tensor([5, 76, 2**20 + 1])
    sent = send("cpu", x, sigma, columns)
    assert torch.equal(sent[0], x) and torch.equal(sent[1], sigma)
    assert sent[2].long().tolist() == columns.tolist()


def test_a_lazy_sequence_makes_each_item_when_it_is_asked_for():
    made = []
    items = LazySequence(3, lambda n: made.append(n) or n * 10)
    assert len(items) == 3 and made == []
    assert items[1] == 10 and items[-1] == 20 and items[:2] == [0, 10]
    assert list(items) == [0, 10, 20] and made == [1, 2, 0, 1, 0, 1, 2]
