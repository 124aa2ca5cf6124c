"""The script in the README, run as it stands there, on the miniature in a folder of the name that it loads."""

import os
import re
import subprocess
import sys

import pytest
from safetensors import safe_open

from tools import comfy_host

SCRIPT = re.search(r"```python\n(.*?)```", (comfy_host.REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the script finds the pipeline that it asks for."""
    comfy_host.activate()
    from mini_sd.export_diffusers import build_pipeline

    assert SCRIPT is not None
    [name] = re.findall(r'from_pretrained\("([^"]+)"\)', SCRIPT[1])
    path = tmp_path_factory.mktemp("script")
    build_pipeline().save_pretrained(path / name)
    return path


def run(folder, code):
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (comfy_host.SHIMS, comfy_host.REPOSITORY))),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


def test_the_script_forgets_and_draws(folder):
    done = run(folder, SCRIPT[1])
    assert done.returncode == 0, done.stdout + done.stderr
    with safe_open(folder / "forget_zebra.safetensors", "pt") as patch:
        assert "zebra" in patch.metadata()["fmn.concepts"] and len(patch.keys()) > 0
    assert (folder / "without_zebra.png").read_bytes()[:4] == b"\x89PNG"


def test_the_public_api_is_there_and_diffusers_is_loaded_only_when_asked_for(folder):
    code = """
import sys, fmn_core
assert "diffusers" not in sys.modules
missing = [name for name in fmn_core.__all__ if not hasattr(fmn_core, name)]
assert not missing, missing
"""
    done = run(folder, code)
    assert done.returncode == 0, done.stdout + done.stderr
