"""What unit tests of several modules share."""

import pytest
import torch
from toy_concepts import TEMPLATES
from toy_model import ToyModel

from fmn_core.concepts.concept import Concept
from fmn_core.training.references import References


@pytest.fixture
def model():
    return ToyModel()


@pytest.fixture
def zebra():
    return Concept(["zebra"], "object", TEMPLATES)


@pytest.fixture
def references():
    """Two latents of noise for the toy."""
    return References(torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3)))


@pytest.fixture(scope="module")
def whole_prompts():
    """Prompts encoded to their last row: the toy's padding differs from place to place, and references know every row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmn_core.closed_form.collect.PADDING", None)
        yield
