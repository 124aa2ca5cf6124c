"""Trainings under the DynamicVRAM of newer hosts, whose layers' weights come to memory that the next layer's take too."""

import pytest

from tests.device import runs
from tests.device.configuration import DYNAMIC

pytestmark = [pytest.mark.usefixtures("dynamic_host"), pytest.mark.timeout(runs.MOST_SECONDS)]

CASES = ("sampling", "resteering", "invert", "visual_pairs", "train_on_patched", "offloaded_weights_stay")


@pytest.fixture(scope="module")
def cpu():
    return runs.reference(CASES)


@pytest.fixture(scope="module", params=["DynamicVRAM", "DynamicVRAM, streams"])
def results(request):
    return runs.run(DYNAMIC[request.param], CASES, fresh=False)


@pytest.mark.parametrize("case", CASES)
def test_trains_as_on_the_cpu(results, cpu, case):
    assert not runs.complaints(results[case], cpu[case], runs.TOLERANCES["fp32"])
