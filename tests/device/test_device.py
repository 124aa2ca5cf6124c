"""The pack on a pretended accelerator: the cases that once failed there, in a few minutes."""

import pytest

from tests.device import runs
from tests.device.configuration import CONFIGURATIONS

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.timeout(runs.MOST_SECONDS)]

# On a model that has not sampled: its weights have never been on the device.
FRESH = (
    "forget_concept_and_compare",
    "closed_form_flux",
    "resteering",
    "resteering_flux",
    "invert_flux",
)


@pytest.fixture(scope="module")
def on_device():
    return runs.run(CONFIGURATIONS["all on the device"], FRESH)


@pytest.fixture(scope="module")
def cpu():
    return runs.reference(FRESH)


@pytest.mark.parametrize("case", FRESH)
def test_fresh_models_train_as_on_the_cpu(on_device, cpu, case):
    assert not runs.complaints(on_device[case], cpu[case])
