import pytest

from fmn_core.errors import ForgetError
from fmn_core.model.layers import choose_layers

NAMES = ["down_blocks.0.x", "down_blocks.1.x", "mid_block.x", "up_blocks.0.x", "up_blocks.1.x"]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("all", {0, 1, 2, 3, 4}),
        ("down", {0, 1}),
        ("mid, up", {2, 3, 4}),
        ("1", {1}),
        ("1-3", {1, 2, 3}),
        ("Down,4", {0, 1, 4}),
    ],
)
def test_places_numbers_and_ranges(choice, chosen):
    assert choose_layers(choice, NAMES) == chosen


@pytest.mark.parametrize("choice", ["", "left", "1-", "-1", "7", "2-9", "3-1", "1.5"])
def test_anything_else_is_refused(choice):
    with pytest.raises(ForgetError):
        choose_layers(choice, NAMES)
