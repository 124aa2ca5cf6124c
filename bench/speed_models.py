"""The models of the speed bench: the miniature, and full-size ones with random weights."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench import full_size
from bench.world import Pack, World

MINIATURE = "miniature"
SHAPES = ("SD 1.5", "SD 2.1", "SDXL")


@contextlib.contextmanager
def model_of(name: str, dtype: str) -> Iterator[Pack]:
    """The miniature with its judge, or a model of these shapes from a random checkpoint through the host's own loader.

    `dtype`: what the UNet is stored in: auto (what the host chooses), fp32, fp16 or bf16.
    """
    with storage(dtype):
        if name == MINIATURE:
            yield World()
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            full_size.write(name, file)
            subject = Pack(lambda host: _loaded(file))
        yield subject
    _freed()


def _loaded(file: Path) -> tuple[Any, Any, Any]:
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(file), output_vae=True)[:3]


@contextlib.contextmanager
def storage(dtype: str) -> Iterator[None]:
    """The host's --fp32-unet, --fp16-unet or --bf16-unet, as if it were started so."""
    from tools import comfy_host

    comfy_host.load_pack()
    from comfy.cli_args import args

    flag = None if dtype == "auto" else f"{dtype}_unet"
    before = None if flag is None else getattr(args, flag)
    if flag is not None:
        setattr(args, flag, True)
    try:
        yield
    finally:
        if flag is not None:
            setattr(args, flag, before)


def _freed() -> None:
    import comfy.model_management

    comfy.model_management.unload_all_models()
    comfy.model_management.current_loaded_models.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dtype_of(subject: Pack) -> str:
    """What the UNet's weights are stored in."""
    return str(next(subject.model.model.diffusion_model.parameters()).dtype).removeprefix("torch.")


def device_of(subject: Pack) -> str:
    device = subject.model.load_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
