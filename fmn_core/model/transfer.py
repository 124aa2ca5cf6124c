"""Copying between the CPU and a device in few steps, because each copy and each number read waits for the device's queue."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def read(scalars: Sequence[torch.Tensor]) -> list[float]:
    """Reads scalars of one precision, which may be on several devices, with one copy for each device."""
    numbers: dict[int, float] = {}
    for device in {scalar.device for scalar in scalars}:
        indices = [n for n, scalar in enumerate(scalars) if scalar.device == device]
        numbers |= zip(indices, torch.stack([scalars[n] for n in indices]).tolist())
    return [numbers[n] for n in range(len(scalars))]


def send(device: torch.device | str, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Copies tensors from the CPU to a device as float32, in one copy. Integers are exact below 2^24."""
    packed = torch.cat([t.detach().float().flatten() for t in tensors]).to(device)
    return [flat.view(t.shape) for flat, t in zip(packed.split([t.numel() for t in tensors]), tensors)]
