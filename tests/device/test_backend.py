"""The checks of the pretended device, in a process of their own: a device must be known before autograd runs for the first time."""

import subprocess
import sys

import pytest

from tools.comfy_host import REPOSITORY


@pytest.mark.usefixtures("device")
def test_the_device_has_the_cpus_numbers_and_a_gpus_rules():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "tests/pytest.ini",
        "-p",
        "no:xdist",
        "tests/device/backend_checks.py",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
