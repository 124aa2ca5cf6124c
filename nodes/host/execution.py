"""What is running: interrupts, progress, messages to the page, and what a training tells the host."""

from __future__ import annotations

import contextlib
import itertools
import sys
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.cli_args import args
from comfy_execution.utils import get_executing_context


def check_interrupted() -> None:
    """Raises the host's own exception when the user pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def server() -> Any:
    """The host's web server; None where the pack is used without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def origin_allowed(headers: Mapping[str, str]) -> bool:
    """Whether a request may change something, beyond the host's own check of Origin against Host, which lets `Origin: null` pass.

    A sandboxed frame and a file on the disk have that origin. Where the user opened the host to other sites, any may.
    """
    origin = headers.get("Origin")
    return origin is None or bool(args.enable_cors_header) or bool(urllib.parse.urlparse(origin).netloc)


def running_node() -> str:
    """The id of the node that is executing; empty outside an execution."""
    context = get_executing_context()
    return "" if context is None else str(context.node_id)


def png_metadata(cls: Any) -> dict[str, Any]:
    """The prompt and workflow of the node class that is executing, as Save Image writes them; empty where the user wants none."""
    if args.disable_metadata or cls.hidden is None:
        return {}
    prompt = {"prompt": cls.hidden.prompt} if cls.hidden.prompt is not None else {}
    return prompt | (cls.hidden.extra_pnginfo or {})


def send(event: str, data: dict[str, Any]) -> None:
    """Sends an event to the browser that queued what is running."""
    instance = server()
    if instance is not None:
        instance.send_sync(event, data, instance.client_id)


class Progress:
    """The progress bar of the node that is running, with an optional preview picture (PIL)."""

    def __init__(self, total: int):
        self._bar = comfy.utils.ProgressBar(total)

    def update(self, done: int, total: int, picture: Any = None) -> None:
        check_interrupted()
        self._bar.update_absolute(done, total, ("JPEG", picture, 512) if picture is not None else None)


def step_counter(total: int) -> Callable[[], None]:
    """A function without arguments that moves the node's progress bar on by one of `total` steps."""
    bar, steps = Progress(total), itertools.count(1)
    return lambda: bar.update(next(steps), total)


@contextlib.contextmanager
def gradients():
    """Leaves the host's inference mode and says that a training runs, where the host wants to know."""
    # Older hosts have no such flag.
    management: Any = comfy.model_management
    has_flag = hasattr(management, "in_training")
    before = getattr(management, "in_training", False)
    try:
        if has_flag:
            management.in_training = True
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if has_flag:
            management.in_training = before


PRECISIONS = ("as loaded", "fp32", "bf16", "fp16")


@contextlib.contextmanager
def computing_in(patcher: Any, precision: str):
    """A loaded MODEL computes in another precision while the context lasts, through the host's own casting; "as loaded" changes nothing.

    The weights stay as and where they are. The host's set_model_compute_dtype would take the whole model to the CPU and back.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        yield
        return
    model = patcher.model
    before = model.manual_cast_dtype
    layers = [m for m in model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
    casts = [getattr(layer, _cast_flag(layer)) for layer in layers]
    try:
        model.manual_cast_dtype = dtypes[precision]
        for layer in layers:
            setattr(layer, _cast_flag(layer), True)
        yield
    finally:
        model.manual_cast_dtype = before
        for layer, cast in zip(layers, casts):
            setattr(layer, _cast_flag(layer), cast)


def _cast_flag(layer: Any) -> str:
    """Where a layer notes whether its weights are cast once they are on the device; an offloaded layer's always are, and it notes it elsewhere."""
    return "prev_comfy_cast_weights" if hasattr(layer, "prev_comfy_cast_weights") else "comfy_cast_weights"


def compute_dtype(patcher: Any) -> torch.dtype:
    """The precision that a MODEL computes in: that of its weights, or another that the host casts them to."""
    return patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()
