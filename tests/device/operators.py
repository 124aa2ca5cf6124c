"""The operator tables that backend/ includes, made from the list of operators that ships with torch.

For each ATen operator: whether CUDA has a kernel, and whether CUDA's wrapper checks devices. torchgen emits that check unless
native_functions.yaml says `device_check: NoCheck`, which it does for what goes through TensorIterator (it has its own check,
and lets CPU scalars pass).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torchgen
import yaml

# These run on CUDA although the list names no kernel for them, or the backend implements them by hand.
EXTRA = (
    "_copy_from",
    "_copy_from_and_resize",
    "_fused_sdp_choice",
    "record_stream",
    "convolution_overrideable",
    "convolution_backward_overrideable",
)


def write_tables(folder: Path) -> None:
    """Writes ops.inc and own_kernels.inc into a folder."""
    source = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    functions = {f["func"].split("(")[0]: f for f in yaml.safe_load(source.read_text())}
    (folder / "ops.inc").write_text(_operator_table(functions))
    (folder / "own_kernels.inc").write_text(_own_kernels(functions))


def _dispatch_keys(function: dict[str, Any]) -> set[str]:
    return {key.strip() for names in function.get("dispatch") or {} for key in str(names).split(",")}


def _operator_table(functions: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, function in functions.items():
        delegate = functions.get(function.get("structured_delegate", ""))
        keys = _dispatch_keys(function) | (_dispatch_keys(delegate) if delegate else set())
        ufunc = "ufunc_inner_loop" in function or bool(delegate and "ufunc_inner_loop" in delegate)
        composite = any("Composite" in key for key in keys) or (not function.get("dispatch") and not delegate)
        on_cuda = name in EXTRA or ufunc or composite or "CUDA" in keys
        checked = function.get("device_check") != "NoCheck"
        lines.append(f'{{"aten::{name}", {"HAS_CUDA" if on_cuda else "0"}{" | CHECKED" if checked else ""}}},')
    return "\n".join(lines) + "\n"


def _own_kernels(functions: dict[str, dict[str, Any]]) -> str:
    """Operators that have a composite kernel and one for CUDA too."""
    lines = []
    for name, function in functions.items():
        keys = _dispatch_keys(function)
        composite = keys & {"CompositeExplicitAutograd", "CompositeImplicitAutograd"}
        if {"CPU", "CUDA"} <= keys and composite and not function.get("structured_delegate"):
            lines.append(f'OWN_KERNEL("{name}")')
    return "\n".join(lines) + "\n"
