"""One real ComfyUI for all tests that need a server."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

# Now, while this folder is the only one of its name: the host has a package `tests` too, and comes first on sys.path once it is activated.
import tests.device  # noqa: F401


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    from tools.comfy_server import ComfyServer

    with ComfyServer(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture
def patches(server):
    """The patch folder, empty before and after the test."""
    folder = server.loras / "forget_me_not"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    yield folder
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture
def embeddings(server):
    """The folder of embeddings, empty after the test."""
    folder = server.base / "models" / "embeddings"
    yield folder
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture(scope="session")
def face(server):
    """example.png, which ComfyUI ships and a workflow loads; a face from scikit-image's public-domain pictures."""
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    Image.open(folder / "astronaut.png").resize((160, 160)).save(server.base / "input" / "example.png")
