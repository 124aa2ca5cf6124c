"""The miniature inside this process, loaded once for all tests."""

import sys

import pytest
import torch

from tools import comfy_host


@pytest.fixture(scope="session")
def miniature():
    """MODEL, CLIP and VAE, as the node gives them."""
    comfy_host.load_pack()
    with torch.inference_mode():
        return sys.modules[f"{comfy_host.PACK_NAME}.nodes.host"].load_miniature()


@pytest.fixture
def as_the_host_runs_nodes():
    """In inference mode."""
    with torch.inference_mode():
        yield
