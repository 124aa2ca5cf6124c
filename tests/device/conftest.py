"""Skips where the device cannot be built, or the host has no DynamicVRAM."""

import pytest

from tests.device import fake_device
from tools import comfy_host


@pytest.fixture(scope="session")
def device():
    """The device's extension, compiled."""
    if fake_device.missing_tools():
        pytest.skip(fake_device.missing_tools())
    fake_device.build()


@pytest.fixture(scope="session")
def dynamic_host(request):
    if not (comfy_host.root() / "comfy" / "memory_management.py").exists():
        pytest.skip("this ComfyUI has no DynamicVRAM: name a newer one in FMN_COMFYUI")
    request.getfixturevalue("device")
