"""The method of Forget-Me-Not, free of any user interface: torch and safetensors only."""

import re
from pathlib import Path


def _version() -> str:
    """The version in pyproject.toml, where the registry looks for it too."""
    try:
        text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "unknown"


__version__ = _version()
