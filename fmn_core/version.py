"""The version of the pack."""

import importlib.metadata
import re
from pathlib import Path


def _version() -> str:
    """The version in pyproject.toml, which the registry reads too; without that file, the installed version."""
    try:
        text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return _installed_version()
    match = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return match[1] if match else "unknown"


def _installed_version() -> str:
    """The version in the metadata that pip installed, or "unknown"."""
    try:
        return importlib.metadata.version("forget-me-not")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


__version__ = _version()
