"""The pretended accelerator: after `activate()` torch knows the device "fake" and the module torch.fake.

Its tensors lie in the CPU's memory and have the CPU's numbers; what differs is what a GPU refuses (backend/). The extension is compiled on
first use, about a minute, into a cache folder, once for each state of its sources and each torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sysconfig
import types
from pathlib import Path
from typing import Any

import torch

BACKEND = Path(__file__).resolve().parent / "backend"
NAME = "fmn_fake_device"


def missing_tools() -> str:
    """Why the device cannot be built here; empty where it can."""
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    return f"the pretended device needs {' and '.join(missing)}, which is not installed" if missing else ""


def cache_folder() -> Path:
    """Where the extension for these sources and this torch lies."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sources = [Path(__file__), Path(__file__).with_name("operators.py"), *sorted(BACKEND.iterdir())]
    digest = hashlib.sha256(b"\0".join(p.read_bytes() for p in sources)).hexdigest()[:16]
    return root / "forget-me-not" / "fake_device" / f"{torch.__version__}-{sysconfig.get_python_version()}-{digest}"


def build() -> Any:
    """The compiled extension, built at its first use; several processes may ask at once."""
    from torch.utils import cpp_extension

    from . import operators

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MAX_JOBS", "1")
    with open(folder / "building", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # torch's own lock: whoever holds ours may remove one that a killed process left.
        (folder / "lock").unlink(missing_ok=True)
        # Compiled from copies: ninja builds again where the path of a source differs, as it does in every checkout.
        sources = folder / "sources"
        if not (folder / f"{NAME}.so").exists():
            operators.write_tables(folder)
            shutil.copytree(BACKEND, sources, dirs_exist_ok=True)
        flags = ["-O0", "-g0", f"-I{sources}", f"-I{folder}", "-Wno-attributes"]
        return cpp_extension.load(
            NAME, [str(sources / "fake_device.cpp")], extra_cflags=flags, build_directory=str(folder)
        )


def _torch_module(native: Any) -> types.ModuleType:
    """torch.fake, as torch.cuda is for CUDA."""
    module = types.ModuleType("torch.fake")
    seeds = {
        "manual_seed": lambda seed: native.manual_seed(int(seed)),
        "manual_seed_all": lambda seed: native.manual_seed(int(seed)),
        "initial_seed": native.initial_seed,
        "get_rng_state": lambda device=None: torch.Tensor.clone(native.get_rng_state()),
        "set_rng_state": lambda state, device=None: native.set_rng_state(state),
    }
    memory = {
        "mem_get_info": lambda device=None: (native.capacity() - native.used(), native.capacity()),
        "memory_allocated": lambda device=None: native.used(),
        "max_memory_allocated": lambda device=None: native.peak(),
        "reset_peak_memory_stats": lambda device=None: native.reset_peak(),
        "memory_stats": lambda device=None: {
            "reserved_bytes.all.current": native.used(),
            "active_bytes.all.current": native.used(),
        },
        "set_capacity": native.set_capacity,
        "capacity": native.capacity,
        "empty_cache": lambda: None,
    }
    state = {
        "_initialized": True,
        "_is_in_bad_fork": lambda: False,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "device": lambda device=None: contextlib.nullcontext(),
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
        "listen": native.listen,
    }
    for name, value in {**seeds, **memory, **state}.items():
        setattr(module, name, value)
    return module


def activate() -> torch.device:
    """Registers the device with torch, once in a process, and returns it."""
    if not hasattr(torch, "fake"):
        native = build()
        native.register_hooks()
        torch.utils.rename_privateuse1_backend("fake")
        torch._register_device_module("fake", _torch_module(native))
        torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device("fake", 0)
