"""The miniature inside this process, loaded once for all tests."""

import pytest
import torch

from tools import comfy_host

# Before the tests of this folder are imported: they take what they test from forget_me_not.nodes.
comfy_host.load_pack()


@pytest.fixture(scope="session")
def miniature():
    """MODEL, CLIP and VAE, as the node gives them."""
    from forget_me_not.nodes import host

    with torch.inference_mode():
        return host.load_miniature()


@pytest.fixture
def as_the_host_runs_nodes():
    """In inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The host's folder of image-text models, empty."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_score", ([str(tmp_path)], set()))
    return tmp_path
