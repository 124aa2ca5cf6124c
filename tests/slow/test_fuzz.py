"""Twenty thousand mutated patch files: each is refused in a sentence, or applied as what it says, within its time and memory."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_hostile_files(tmp_path):
    command = [sys.executable, "-m", "tools.fuzz", "--files", "20000", "--page", str(tmp_path / "fuzz.md")]
    found = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
