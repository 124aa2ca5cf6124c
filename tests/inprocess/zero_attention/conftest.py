"""The node Zero Concept Attention, prompts encoded for it, and the host's own nodes."""

from types import SimpleNamespace

import pytest
from forget_me_not.nodes.attention.zero_attention import ZeroConceptAttention
from forget_me_not.nodes.concepts.encode_prompt import EncodePrompt


@pytest.fixture
def zero(miniature):
    """The node's MODEL."""

    def run(model=None, clip=None, **changes):
        inputs = {
            "phrase": "zebra", "strength": 1.0, "end_token": "none", "layers": "all", "start_percent": 0.0, "end_percent": 1.0,
            "renormalise": False,
        }  # fmt: skip
        node = ZeroConceptAttention
        return node.execute(model=model or miniature[0], clip=clip or miniature[1], **(inputs | changes)).args[0]

    return run


@pytest.fixture
def encode(miniature):
    return lambda text, clip=None: EncodePrompt.execute(text, clip or miniature[1]).args[0]


@pytest.fixture
def core():
    """The host's own nodes."""
    import comfy_extras.nodes_hooks

    import nodes

    return SimpleNamespace(**vars(nodes) | vars(comfy_extras.nodes_hooks))
