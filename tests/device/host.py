"""A ComfyUI of this process that believes in the pretended device: `activate(configuration, folder)`, before anything imports the pack.

What it pretends is a recent NVIDIA card: MODEL, CLIP and VAE are loaded to fake:0 and offloaded to the CPU, the UNet is fp16 or bf16 where the
host would choose it, and free memory is what the backend counts.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from pathlib import Path
from typing import Any

import torch

from tools import comfy_host

from . import fake_device
from .configuration import Configuration

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def activate(configuration: Configuration, folder: Path) -> Any:
    """Configures the host, whose temporary files and output go to `folder`, and returns its comfy.model_management."""
    from . import dynamic_vram

    if configuration.dynamic:
        dynamic_vram.install()
    comfy_host.activate(cpu=True)
    import comfy.model_management as management
    import folder_paths
    from comfy.cli_args import args

    setattr(args, f"{configuration.weights}_unet", True)
    folder_paths.set_temp_directory(str(folder / "temp"))
    folder_paths.set_output_directory(str(folder / "output"))
    for kind in ("loras", "embeddings"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        folder_paths.folder_names_and_paths[kind] = ([str(folder / kind)], folder_paths.supported_pt_extensions)
    if configuration.compute:
        same = configuration.compute == configuration.weights
        management.unet_manual_cast = lambda *a, **k: None if same else DTYPES[configuration.compute]
    if configuration.device == "fake":
        _pretend(management, args, configuration)
    if configuration.stored:
        _store_as(DTYPES[configuration.stored])
    if configuration.streams:
        _offload_through_streams(management)
    if configuration.dynamic:
        dynamic_vram.limit = int(configuration.resident)
        dynamic_vram.enable()
        module = pack_module("nodes.loaders.load_miniature").host
        if configuration.patcher == "checkpoint":
            module.load_miniature = dynamic_vram.dynamic_miniature(module.load_miniature)
    return management


def _store_as(dtype: torch.dtype) -> None:
    """The miniature's file is read as if its weights were in another precision."""
    import comfy.utils

    read = comfy.utils.load_torch_file

    def converted(path, *args, **kwargs):
        found = read(path, *args, **kwargs)
        if not str(path).endswith("mini_sd.safetensors"):
            return found
        return {name: w.to(dtype) if w.is_floating_point() else w for name, w in found.items()}

    comfy.utils.load_torch_file = converted


def pack_module(name: str) -> Any:
    """A module of the pack, such as nodes.forget.train_patch."""
    comfy_host.load_pack()
    return sys.modules[f"{comfy_host.PACK_NAME}.{name}"]


def _pretend(management: Any, args: Any, configuration: Configuration) -> None:
    """The host computes on the card, whose memory is counted by the backend."""
    card = fake_device.activate()
    torch.fake.set_capacity(configuration.capacity())
    args.cpu = False
    management.cpu_state = management.CPUState.GPU
    management.vram_state = management.set_vram_to = management.VRAMState[configuration.state]
    management.get_torch_device = lambda: card
    management.total_vram = configuration.capacity() / (1 << 20)
    # As for NVIDIA; the host asks is_nvidia() at import.
    management.MIN_WEIGHT_MEMORY_RATIO = 0.0
    if hasattr(management, "synchronize"):
        management.synchronize = lambda: None
    _count_memory(management, card)
    half = {"fp16", "bf16"} & {configuration.weights, configuration.compute}

    def on_card(device=None, model_params=0, prioritize_performance=True, manual_cast=False):
        return device is None or torch.device(device).type != "cpu"

    management.should_use_fp16 = on_card
    management.should_use_bf16 = lambda *a, **k: bool(half) and on_card(*a, **k)


def _count_memory(management: Any, card: torch.device) -> None:
    host_total, host_free = management.get_total_memory, management.get_free_memory

    def total(dev=None, torch_total_too=False):
        if torch.device(dev or card).type != "fake":
            return host_total(dev, torch_total_too)
        free, capacity = torch.fake.mem_get_info()
        return (capacity, capacity - free) if torch_total_too else capacity

    def free(dev=None, torch_free_too=False):
        if torch.device(dev or card).type != "fake":
            return host_free(dev, torch_free_too)
        found = torch.fake.mem_get_info()[0]
        return (found, 0) if torch_free_too else found

    management.get_total_memory, management.get_free_memory = total, free


class _Stream(contextlib.nullcontext):
    """A stream on which nothing runs at once."""

    def wait_stream(self, other):
        pass

    def synchronize(self):
        pass

    __hash__ = object.__hash__

    def as_context(self, stream):
        return contextlib.nullcontext()


def _offload_through_streams(management: Any) -> None:
    streams, turn, current = (_Stream(), _Stream()), itertools.count(), _Stream()
    management.NUM_STREAMS = 2
    management.get_offload_stream = lambda device: streams[next(turn) % 2]
    management.current_stream = lambda device: current
