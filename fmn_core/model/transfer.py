"""Between the CPU and a device in few steps: each copy, and each number that is read, waits for all that the device has to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def read(scalars: Sequence[torch.Tensor]) -> list[float]:
    """The values of scalars of one precision, which may be on several devices: each device is waited for once."""
    found: dict[int, float] = {}
    for device in {s.device for s in scalars}:
        numbers = [n for n, s in enumerate(scalars) if s.device == device]
        found |= zip(numbers, torch.stack([scalars[n] for n in numbers]).tolist())
    return [found[n] for n in range(len(scalars))]


def send(device: torch.device | str, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors of the CPU on a device, in one copy. Whole numbers become float32, exact below 2^24."""
    packed = torch.cat([t.detach().float().flatten() for t in tensors]).to(device)
    return [part.view(t.shape) for part, t in zip(packed.split([t.numel() for t in tensors]), tensors)]
