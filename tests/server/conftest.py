"""What tests of several modules ask of the server."""

import pytest
from prompts import ZEBRA, miniature, pictures, sampled, train


@pytest.fixture(scope="session")
def picture_before(server):
    """What the untouched miniature draws."""
    return pictures(server, server.run(miniature() | sampled("a", ["mini", 0], ZEBRA)), "a")


@pytest.fixture
def two(server, patches):
    """zebra.safetensors and dog.safetensors."""
    for name in ("zebra", "dog"):
        server.run(train(phrase=name, file_name=name))
    return patches
