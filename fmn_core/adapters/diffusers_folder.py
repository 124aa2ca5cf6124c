"""A diffusers pipeline from a local folder, and a patch on it."""

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
    """A StableDiffusionPipeline or StableDiffusionXLPipeline from a local folder, without its safety checker.

    Raises ForgetError when there is no such folder or another kind of pipeline in it, weights are missing or pickled, the device cannot be
    used, and without diffusers.
    """
    index = _index(folder)
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ForgetError(f"Expected a {' or '.join(PIPELINES)} in {folder}, got {kind}. Choose SD 1.x, 2.x or XL.")
    # The checker would paint black what a benchmark is to see.
    without = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    try:
        pipeline = getattr(_diffusers(), kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **without
        )
    except Exception as error:  # a broken folder fails in whatever part reads it
        raise ForgetError(
            f"Expected a whole pipeline with safetensors weights in {folder}, but: {_reason(error)} Write it again with save_pretrained."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return _on_device(pipeline, device, torch.float16 if use_fp16 and device.startswith("cuda") else torch.float32)


def _index(folder: Path) -> dict[str, Any]:
    """model_index.json of a pipeline's folder."""
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
    """CUDA or Metal where there is one, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def apply_patch(pipeline: Any, patch: ForgetPatch) -> None:
    """Puts a patch on a pipeline as pipeline.load_lora_weights does with its file, which asks for peft.

    Raises ForgetError when it is for another architecture, or cannot be loaded.
    """
    _check_fit(DiffusersModel(pipeline), patch)
    try:
        # Half precision would lose digits of files in single precision.
        pipeline.load_lora_weights(patch.state_dict(torch.float32))
    except (ImportError, ValueError, RuntimeError, KeyError) as error:
        raise ForgetError(
            f"Expected diffusers to load the patch, but: {_reason(error)} Make sure that peft is installed: pip install peft."
        ) from error


def _check_fit(model: DiffusersModel, patch: ForgetPatch) -> None:
    """Raises ForgetError when layers of the patch are not in the model, or of other shapes; warns of another base."""
    layers: dict[str, Any] = model.linear_layers()
    check_fit(patch, {kohya_name(name): tuple(layer.weight.shape) for name, layer in layers.items()})
    difference = base_difference(patch.base, fingerprint(model))
    if difference:
        log.warning("%s; it may forget less", difference)


def _reason(error: BaseException) -> str:
    """An error as one sentence."""
    text = plain_text(error, 200).strip() or type(error).__name__
    return text if text.endswith(".") else f"{text}."
