"""Checks the import contracts of pyproject.toml: python -m tools.lint_imports

import-linter needs the pack as a package under one name, but its folder is named differently on every machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.comfy_host import PACK_NAME, REPOSITORY


def main() -> int:
    """Runs import-linter on the repository under the package name PACK_NAME; returns its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PACK_NAME).symlink_to(REPOSITORY, target_is_directory=True)
        command = [
            str(Path(sys.executable).with_name("lint-imports")),
            "--no-cache",
            "--config",
            str(REPOSITORY / "pyproject.toml"),
        ]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": folder}).returncode


if __name__ == "__main__":
    raise SystemExit(main())
