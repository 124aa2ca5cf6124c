"""Version and validation of a file that a node chooses from a list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ...fmn_core.errors import ForgetError
from .. import host


def file_stamp(path: Path) -> str:
    """Path and version of a file, for a node's fingerprint_inputs; raises OSError if there is no such file."""
    return f"{path} {host.file_version(path)}"


def validation_result(check: Callable[..., Any], *arguments: Any) -> Literal[True] | str:
    """True if a check passes, otherwise its message: the form that the host expects from validate_inputs."""
    try:
        check(*arguments)
    except (ForgetError, OSError) as error:
        return str(error)
    return True
