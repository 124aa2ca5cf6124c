"""The host's running execution: interrupts, progress, messages to the page, training mode and precision."""

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

PRECISIONS = ("as loaded", "fp32", "bf16", "fp16")


def check_interrupted() -> None:
    """Raises the host's own exception when the user pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def server() -> Any:
    """The host's web server, or None where the pack runs without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def origin_allowed(headers: Mapping[str, str]) -> bool:
    """Whether the origin of a request allows it to change something on the server.

    Notes
    -----
    The host compares Origin with Host, but lets `Origin: null` pass, which a sandboxed frame and a file on the disk
    send. Where the user opened the host to other sites (CORS), every origin is allowed.
    """
    origin = headers.get("Origin")
    return origin is None or bool(args.enable_cors_header) or bool(urllib.parse.urlparse(origin).netloc)


def running_node() -> str:
    """Id of the node that is executing; empty outside an execution."""
    context = get_executing_context()
    return "" if context is None else str(context.node_id)


def running_workflow() -> str:
    """Id of the workflow that is executing, which the page gives to every graph; empty where it is not known, as in plain API prompts."""
    context, queue = get_executing_context(), getattr(server(), "prompt_queue", None)
    for _, prompt_id, _, extra, *_ in list(getattr(queue, "currently_running", {}).values()):
        if context is not None and prompt_id == context.prompt_id:
            workflow = (extra.get("extra_pnginfo") or {}).get("workflow")
            return str(workflow.get("id", "")) if isinstance(workflow, dict) else ""
    return ""


def png_metadata(cls: Any) -> dict[str, Any]:
    """Prompt and workflow of the executing node class, as Save Image writes them; empty where metadata is disabled."""
    if args.disable_metadata or cls.hidden is None:
        return {}
    prompt = {"prompt": cls.hidden.prompt} if cls.hidden.prompt is not None else {}
    return prompt | (cls.hidden.extra_pnginfo or {})


def graph_texts(cls: Any) -> list[str]:
    """The texts typed into the nodes that the executing node depends on, nearest first; its schema asks for prompt and unique_id."""
    if cls.hidden is None or not cls.hidden.prompt:
        return []
    prompt, texts, pending, seen = cls.hidden.prompt, [], [str(cls.hidden.unique_id)], set()
    while pending:
        node = pending.pop(0)
        if node in seen or node not in prompt:
            continue
        seen.add(node)
        for value in prompt[node]["inputs"].values():
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, list) and len(value) == 2:
                pending.append(str(value[0]))
    return texts


def send_event(event: str, data: dict[str, Any], everyone: bool = False) -> None:
    """Sends an event to the page that queued the running execution, or to every page."""
    instance = server()
    if instance is not None:
        instance.send_sync(event, data, None if everyone else instance.client_id)


class Progress:
    """The progress bar of the executing node, with an optional preview picture."""

    def __init__(self, total: int):
        self._bar = comfy.utils.ProgressBar(total)

    def update(self, done: int, total: int, picture: Any = None) -> None:
        """Moves the bar to step `done` of `total` and shows a PIL picture; raises the host's exception on cancel."""
        check_interrupted()
        self._bar.update_absolute(done, total, ("JPEG", picture, 512) if picture is not None else None)


def step_counter(total: int) -> Callable[[], None]:
    """Returns a function without arguments that moves the node's progress bar on by one of `total` steps."""
    bar, steps = Progress(total), itertools.count(1)
    return lambda: bar.update(next(steps), total)


@contextlib.contextmanager
def training_mode():
    """Leaves the host's inference mode, enables gradients, and sets the host's flag of a running training."""
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


@contextlib.contextmanager
def computing_in(patcher: Any, precision: str):
    """Makes a loaded MODEL compute in another precision while the context is open, through the host's own casting.

    Parameters
    ----------
    precision
        One of PRECISIONS. "as loaded" changes nothing.

    Notes
    -----
    The weights keep their precision and device. The host's set_model_compute_dtype would move the whole model to the
    CPU and back.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        yield
        return
    model = patcher.model
    before = model.manual_cast_dtype
    layers = [m for m in model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
    cast_flags = [getattr(layer, _cast_flag_name(layer)) for layer in layers]
    try:
        model.manual_cast_dtype = dtypes[precision]
        for layer in layers:
            setattr(layer, _cast_flag_name(layer), True)
        yield
    finally:
        model.manual_cast_dtype = before
        for layer, flag in zip(layers, cast_flags):
            setattr(layer, _cast_flag_name(layer), flag)


def _cast_flag_name(layer: Any) -> str:
    """Attribute by which a layer on its device casts its weights. An offloaded layer always casts, and keeps the flag elsewhere."""
    return "prev_comfy_cast_weights" if hasattr(layer, "prev_comfy_cast_weights") else "comfy_cast_weights"


def compute_dtype(patcher: Any) -> torch.dtype:
    """Precision that a MODEL computes in: that of its weights, or the one that the host casts them to."""
    return patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()
