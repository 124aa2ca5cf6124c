"""What is needed to repeat a result: command, version and commit of the pack, machine, torch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from bench.results_page import machine
from fmn_core import __version__
from tools.comfy_host import REPOSITORY


@cache
def git_commit(folder: Path = REPOSITORY) -> str:
    """Commit of a checkout, marked where tracked files differ from it; a sentence where there is no git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + (" with changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout.strip()


def this_command(module: str) -> str:
    """Command line of this process, quoted so that it can be typed again."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def provenance(command: str) -> dict[str, str]:
    """Columns of the store that say how a result was made."""
    return {
        "command": command,
        "pack_version": __version__,
        "git_commit": git_commit(),
        "machine": machine(),
        "torch_version": torch.__version__,
    }
