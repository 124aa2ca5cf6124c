"""The pretended device itself: the CPU's numbers, and a GPU's rules about devices and memory. Run by test_backend.py."""

import pytest
import torch
from torch.nn import functional as F

from fmn_core.attention.mask_shapes import feather, grow
from tests.device import fake_device

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.timeout(3600)]


@pytest.fixture(autouse=True)
def fake(device):
    fake_device.activate()


SAME = {
    "matmul": (lambda a, b: a @ b, (3, 4), (4, 5)),
    "views": (lambda a: a.softmax(-1)[..., 1:3].transpose(0, 1).reshape(-1), (3, 4)),
    "convolution": (lambda a, w, b: F.conv2d(a, w, b, padding=1), (2, 3, 8, 8), (4, 3, 3, 3), (4,)),
    "group norm": (lambda a, w, b: F.group_norm(a, 2, w, b), (2, 4, 8, 8), (4,), (4,)),
    "attention": (F.scaled_dot_product_attention, (1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 4)),
    "interpolation": (lambda a: F.interpolate(a, size=(5, 7), mode="bicubic"), (1, 2, 4, 4)),
    "index": (lambda a: a[torch.tensor([0, 2])], (3, 4)),
    "solve": (lambda a: torch.linalg.solve(a @ a.T + torch.eye(4, device=a.device), a), (4, 4)),
}


@pytest.mark.parametrize("name", SAME)
def test_values_and_gradients_are_the_cpus(name):
    function, *shapes = SAME[name]
    ours = [torch.randn(s, generator=torch.Generator().manual_seed(3)).requires_grad_() for s in shapes]
    theirs = [t.detach().to("fake").requires_grad_() for t in ours]
    x, y = function(*ours), function(*theirs)
    assert y.device.type == "fake"
    torch.testing.assert_close(y.cpu(), x, atol=2e-5, rtol=1e-4)
    x.square().sum().backward()
    y.square().sum().backward()
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(other.grad.cpu(), one.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["matmul", "convolution"])
def test_halves_are_multiplied_with_sums_in_float(name):
    """Rounded once, as on a GPU: values and gradients are those of float32 on the same halves, rounded."""
    function, *shapes = SAME[name]
    halves = [torch.randn(s, generator=torch.Generator().manual_seed(3)).half() for s in shapes]
    ours = [t.float().requires_grad_() for t in halves]
    theirs = [t.to("fake").requires_grad_() for t in halves]
    x, y = function(*ours), function(*theirs)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.cpu(), x.half(), atol=2e-3, rtol=2e-3)
    x.sum().backward()
    y.sum().backward()
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(other.grad.cpu(), one.grad.half(), atol=2e-2, rtol=2e-3)


MIXED = {
    "sum": lambda x, y: x + y,
    "matmul": lambda x, y: x @ y,
    "linear": F.linear,
    "concatenation": lambda x, y: torch.cat([x, y]),
    "embedding": lambda x, y: F.embedding(torch.tensor([0]), x),
    "loss": F.mse_loss,
    "generator": lambda x, y: torch.randn(3, device="fake", generator=torch.Generator()),
    "numpy": lambda x, y: x.numpy(),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(name):
    with pytest.raises((RuntimeError, TypeError)):
        MIXED[name](torch.randn(3, 3, device="fake"), torch.randn(3, 3))


def test_inference_tensors_are_refused_by_autograd():
    with torch.inference_mode():
        frozen = torch.randn(2, 2, device="fake")
    with pytest.raises(RuntimeError, match="nference"):
        (frozen * torch.ones(2, 2, device="fake", requires_grad=True)).sum()


def test_memory_is_counted_and_limited():
    used = torch.fake.memory_allocated()
    block = torch.empty(1 << 20, device="fake")
    assert torch.fake.memory_allocated() - used == 4 << 20
    del block
    assert torch.fake.memory_allocated() == used
    before = torch.fake.capacity()
    try:
        torch.fake.set_capacity(used + (1 << 20))
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(1 << 20, device="fake")
    finally:
        torch.fake.set_capacity(before)


def test_a_listener_hears_copies_waits_and_float64():
    events = []
    torch.fake.listen(lambda kind, name, size: events.append(kind))
    try:
        float(torch.randn(4, device="fake").double().sum())
    finally:
        torch.fake.listen(None)
    assert {"op", "sync", "float64"} <= set(events)


def test_masks_are_shaped_as_on_the_cpu_and_return_to_their_device():
    mask = torch.rand(31, 47, generator=torch.Generator().manual_seed(0))
    for function, values, amounts in ((grow, mask > 0.5, (2, -2, 0)), (feather, mask, (0.0, 3.0, 20.0))):
        for amount in amounts:
            shaped = function(values.to("fake"), amount)
            assert shaped.device.type == "fake" and torch.equal(shaped.cpu(), function(values, amount))
