"""Trainings under the DynamicVRAM of newer hosts, whose layers' weights come to memory that the next layer's take too."""

import pytest

from tests.device import runs
from tests.device.configuration import DYNAMIC, Configuration

pytestmark = [pytest.mark.usefixtures("dynamic_host"), pytest.mark.timeout(runs.MOST_SECONDS)]

CASES = ("sampling", "resteering", "invert", "visual_pairs", "train_on_patched", "offloaded_weights_stay")
GRADIENTS = ("gradients", "gradients_offloaded_between_steps", "gradients_evicted_within_a_pass")
# Of |x|; only the order of sums differs, which was measured as 2e-5.
GRADIENT_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def cpu():
    return runs.reference(CASES)


@pytest.fixture(scope="module", params=["DynamicVRAM", "DynamicVRAM, streams"])
def results(request):
    return runs.run(DYNAMIC[request.param], CASES, fresh=False)


@pytest.mark.parametrize("case", CASES)
def test_trains_as_on_the_cpu(results, cpu, case):
    assert not runs.complaints(results[case], cpu[case])


@pytest.fixture(scope="module")
def with_streams():
    return runs.run(DYNAMIC["DynamicVRAM, streams"], GRADIENTS, fresh=False)


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_of_offloaded_layers_are_the_cpus(with_streams, case):
    """Buffers that weights are brought to are used again before the backward pass."""
    assert not runs.complaints(with_streams[case], runs.reference(GRADIENTS)[case], tolerance=GRADIENT_TOLERANCE)


def test_weights_are_evicted_within_a_pass(with_streams):
    assert with_streams["gradients_evicted_within_a_pass"]["values"]["evicted.report"] > 0


def test_trainings_after_sampling_meet_no_inference_tensors():
    """Weights that sampling left resident are inference tensors, which autograd refuses."""
    cases = ("sampling", "gradients")
    results = runs.run(DYNAMIC["DynamicVRAM"], cases, fresh=False)
    assert not runs.complaints(
        results["gradients"], runs.reference(GRADIENTS)["gradients"], tolerance=GRADIENT_TOLERANCE
    )


def test_a_file_in_float32_trains_in_half_precision():
    """Its weights take half of the file's memory on the card, and the host has reserved no more."""
    results = runs.run(DYNAMIC["DynamicVRAM, fp32 file as bf16"], ["resteering"])
    assert not results["resteering"]["error"]
    assert not results["resteering"]["problems"]


def test_the_miniature_of_the_node_samples():
    """Its layers take the precision of their weights' file, unless they are told otherwise."""
    configuration = Configuration(dynamic=True, patcher="node")
    results = runs.run(configuration, ["sampling"])
    assert not runs.complaints(results["sampling"], runs.reference(CASES)["sampling"])
