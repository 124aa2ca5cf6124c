"""Files that a node chooses from a list: when to run again, and what to say where the file is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ...fmn_core.errors import ForgetError
from .. import host


def file_stamp(path: Path) -> str:
    """Path and version of a file, for a node's fingerprint_inputs; raises OSError where there is no file."""
    return f"{path} {host.file_version(path)}"


def validation_result(check: Callable[..., Any], *values: Any) -> Literal[True] | str:
    """True where a check passes, else its message, as the host wants it of validate_inputs."""
    try:
        check(*values)
    except (ForgetError, OSError) as error:
        return str(error)
    return True
