"""The miniature inside this process, loaded once for all tests."""

import pytest
import torch
from forget_me_not.nodes.host import load_miniature

from tools import comfy_host


@pytest.fixture(scope="session")
def miniature():
    """MODEL, CLIP and VAE, as the node gives them."""
    comfy_host.load_pack()
    with torch.inference_mode():
        return load_miniature()


@pytest.fixture
def as_the_host_runs_nodes():
    """In inference mode."""
    with torch.inference_mode():
        yield
