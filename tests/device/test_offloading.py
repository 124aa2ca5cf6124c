"""Trainings on cards that hold a part of the model: make device."""

import pytest

from tests.device import runs
from tests.device.configuration import CONFIGURATIONS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device"), pytest.mark.timeout(runs.MOST_SECONDS)]

CASES = (
    "visual_pairs",
    "resteering",
    "resteering_checkpointing",
    "offloaded_weights_stay",
)


@pytest.fixture(scope="module")
def cpu():
    return runs.reference(CASES)


@pytest.fixture(scope="module")
def small_card():
    return runs.run(CONFIGURATIONS["small card"], CASES)


@pytest.mark.parametrize("case", CASES)
def test_models_that_push_each_other_out_train_as_on_the_cpu(small_card, cpu, case):
    assert not runs.complaints(small_card[case], cpu[case])


def test_offloaded_weights_are_no_copies_that_a_backward_pass_keeps(small_card):
    """A pass without checkpointing would keep the weights that were brought to the device: most of the UNet's 29 MB."""
    assert small_card["offloaded_weights_stay"]["values"]["offloaded.report"] > 0
    assert small_card["resteering"]["peak"] <= 1.05 * small_card["resteering_checkpointing"]["peak"]
