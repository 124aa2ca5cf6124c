"""Models of the speed bench: the miniature, and full-size models with random weights."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench import full_size
from bench.concept_bench.concepts import MINIATURE
from bench.world import Pack, World

SHAPES = ("SD 1.5", "SD 2.1", "SDXL")


@contextlib.contextmanager
def model_of(name: str, dtype: str) -> Iterator[Pack]:
    """The miniature with its judge, or a model of SHAPES that the host's loader reads from a random checkpoint.

    Parameters
    ----------
    dtype
        Data type of the UNet's weights: auto (the host chooses), fp32, fp16 or bf16.
    """
    with storage(dtype):
        if name == MINIATURE:
            yield World()
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            full_size.write_checkpoint(name, file)
            subject = Pack(lambda host: load_checkpoint(file))
        yield subject
    _free_models()


def load_checkpoint(file: Path) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a checkpoint; raises ValueError where one of them is missing."""
    import comfy.sd

    parts = comfy.sd.load_checkpoint_guess_config(str(file), output_vae=True)[:3]
    if any(part is None for part in parts):
        raise ValueError(
            f"Expected a checkpoint with UNet, text encoders and VAE in {file.name}, one is missing. Take one that holds all three."
        )
    return parts


@contextlib.contextmanager
def storage(dtype: str) -> Iterator[None]:
    """Sets the host's option --fp32-unet, --fp16-unet or --bf16-unet for as long as the context lasts."""
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


def _free_models() -> None:
    import comfy.model_management

    comfy.model_management.unload_all_models()
    comfy.model_management.current_loaded_models.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dtype_of(subject: Pack) -> str:
    """Data type of the UNet's weights."""
    return str(next(subject.model.model.diffusion_model.parameters()).dtype).removeprefix("torch.")


def device_of(subject: Pack) -> str:
    """Name of the device that the UNet runs on."""
    device = subject.model.load_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
