"""Every node and every method of training in every configuration, long sessions, and many cycles; long."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from tests.device import runs
from tests.device.configuration import CONFIGURATIONS, DYNAMIC, Configuration

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device"), pytest.mark.timeout(4 * runs.MOST_SECONDS)]

SEQUENCE_STEPS = 250


def check_all(configuration: Configuration, fresh: bool) -> None:
    """Raises AssertionError with all that went wrong in any case."""
    from tests.device.cases import CASES

    chosen = [name for name in CASES if name != "hundred_cycles"]
    expected, results = runs.reference(chosen), runs.run(configuration, chosen, fresh)
    wrong = {}
    for name in chosen:
        complaints = runs.complaints(results[name], expected[name], runs.precision(configuration, name))
        wrong |= {name: complaints} if complaints else {}
    assert not wrong


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_case(name):
    check_all(CONFIGURATIONS[name], fresh=name == "all on the device")


@pytest.mark.parametrize("name", DYNAMIC)
def test_every_case_with_dynamic_vram(dynamic_host, name):
    check_all(DYNAMIC[name], fresh=False)


@pytest.mark.parametrize("name", ["all on the device", "partial load", "small card", "no VRAM"])
def test_random_sessions(name):
    run_session(CONFIGURATIONS[name])


@pytest.mark.parametrize("name", DYNAMIC)
def test_random_sessions_with_dynamic_vram(dynamic_host, name):
    run_session(DYNAMIC[name])


def run_session(configuration: Configuration) -> None:
    command = [sys.executable, "-m", "tests.device.sequences", "--count", str(SEQUENCE_STEPS)]
    command += ["--configuration", json.dumps(asdict(configuration)), "--folder", str(runs.OUT / "runs" / "session")]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_device_memory_is_flat_over_a_hundred_cycles():
    configuration = CONFIGURATIONS["all on the device"]
    assert not runs.run(configuration, ["hundred_cycles"])["hundred_cycles"]["values"]["grown"]
