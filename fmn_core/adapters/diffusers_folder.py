"""Loading a diffusers pipeline from a local folder, and applying a patch to it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from ..errors import ForgetError, plain_text
from ..patch.fit import check_fit
from ..patch.patch import ForgetPatch, base_difference, fingerprint, kohya_name
from .diffusers_model import DiffusersModel

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
log = logging.getLogger("forget-me-not")


def load_pipeline(folder: Path, device: str, use_fp16: bool = True) -> Any:
    """Loads a StableDiffusionPipeline or StableDiffusionXLPipeline, without its safety checker.

    Parameters
    ----------
    folder
        A folder written by `save_pretrained`, with safetensors weights. Nothing is downloaded.
    device
        Device in torch's notation, such as cuda, mps or cpu.
    use_fp16
        Half precision, on CUDA only.

    Raises
    ------
    ForgetError
        When the folder or its weights cannot be read, or hold another kind of pipeline, when the device cannot be used, and
        when diffusers is not installed.
    """
    index = _index(folder)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ForgetError(f"Expected a {' or '.join(PIPELINES)} in {folder}, got {kind}. Choose SD 1.x, 2.x or XL.")
    # The checker would paint pictures black that a benchmark has to judge.
    no_checker = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    try:
        pipeline = getattr(_diffusers(), kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **no_checker
        )
    except Exception as error:  # Each part of the pipeline has its own errors for a broken folder.
        raise ForgetError(
            f"Expected a whole pipeline with safetensors weights in {folder}, but: {_reason(error)} Write it again with save_pretrained."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return _on_device(pipeline, device, torch.float16 if use_fp16 and device.startswith("cuda") else torch.float32)


def _index(folder: Path) -> dict[str, Any]:
    """Reads model_index.json, which lists the parts of a pipeline."""
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ForgetError(
            f"Expected the folder of a diffusers pipeline at {str(folder)!r}, got no model_index.json that can be read there "
            f"({type(error).__name__}). Set `folder` to what pipeline.save_pretrained wrote; nothing is downloaded."
        ) from error
    return index if isinstance(index, dict) else {}


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ForgetError(
            f"Expected diffusers to be installed, but: {_reason(error)} Run pip install diffusers transformers."
        ) from error
    return diffusers


def _on_device(pipeline: Any, device: str, dtype: torch.dtype) -> Any:
    try:
        return pipeline.to(device, dtype)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ForgetError(
            f"Expected a device with room for the model, got {device!r}: {_reason(error)} Choose another, or leave `device` out."
        ) from error


def best_device() -> str:
    """Name of the fastest device: CUDA, else Metal, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def apply_patch(pipeline: Any, patch: ForgetPatch) -> None:
    """Loads a patch onto a pipeline, as `pipeline.load_lora_weights` does with its file; needs peft.

    Raises
    ------
    ForgetError
        When the patch is for another architecture, or diffusers cannot load it.
    """
    _check_fit(DiffusersModel(pipeline), patch)
    try:
        # Files may hold single precision, of which half precision would lose digits.
        pipeline.load_lora_weights(patch.state_dict(torch.float32))
    except (ImportError, ValueError, RuntimeError, KeyError) as error:
        raise ForgetError(
            f"Expected diffusers to load the patch, but: {_reason(error)} Make sure that peft is installed: pip install peft."
        ) from error


def _check_fit(model: DiffusersModel, patch: ForgetPatch) -> None:
    """Raises ForgetError when the model lacks layers of the patch or has them in other shapes; warns of another base model."""
    layers: dict[str, Any] = model.linear_layers()
    check_fit(patch, {kohya_name(name): tuple(layer.weight.shape) for name, layer in layers.items()})
    difference = base_difference(patch.base, fingerprint(model))
    if difference:
        log.warning("%s; it may forget less", difference)


def _reason(error: BaseException) -> str:
    """An error's message as one sentence."""
    text = plain_text(error, 200).strip() or type(error).__name__
    return text if text.endswith(".") else f"{text}."
