"""What unit tests of several modules share."""

import pytest


@pytest.fixture(scope="module")
def whole_prompts():
    """Prompts encoded to their last row: the toy's padding differs from place to place, and references know every row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmn_core.closed_form.PADDING", None)
        yield
