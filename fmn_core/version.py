"""The version of the pack."""

import importlib.metadata
import re
from pathlib import Path


def _version() -> str:
    """The version in pyproject.toml, where the registry looks for it too."""
    try:
        text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return _installed_version()
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "unknown"


def _installed_version() -> str:
    """The version that pip knows, where the package was installed without the rest of the pack."""
    try:
        return importlib.metadata.version("forget-me-not")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


__version__ = _version()
